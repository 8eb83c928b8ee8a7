"""What the vectors of all earlier tasks span, kept up to date task by task (rows are the vectors here)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Share of the largest singular value of any task's vectors up to which a new direction is rounding, not content."""


@dataclass(frozen=True)
class Spans:
    """Spans of n stacks of vectors of length d. They follow from the tasks' vectors in their order, to the bit.

    Attributes:
        basis: Orthonormal rows, [n, q, d]; where a stack has fewer than q, rows of zeros fill up.
        dimensions: How many rows each has, [n].
        largest: The largest singular value of any task's vectors, in float64, [n].
    """

    basis: Tensor
    dimensions: Tensor
    largest: Tensor


def no_spans(vectors: Tensor) -> Spans:
    """Empty spans, to be extended by vectors of this shape, [n, r, d]."""
    n, _, d = vectors.shape
    zeros = vectors.new_zeros(n, dtype=torch.long)
    return Spans(vectors.new_zeros(n, 0, d), zeros, _exact(vectors).new_zeros(n))


def extended(spans: Spans, vectors: Tensor, *, energy: float = 1.0, tolerance: float = TOLERANCE) -> Spans:
    """The spans with one more task's vectors X.

    What of X lies in the span is taken out twice (Gram-Schmidt; the second pass takes what rounding left of the first),
    X' = X (I - Q^T Q)^2; a QR decomposition of X'^T and the singular value decomposition of its small factor give the
    left directions by size. Those count whose singular value is above `tolerance` times the largest of any task; so
    vectors inside the span, and zeros, add nothing. Computed in float64, kept in the vectors' precision: that the rows
    of Q are rounded leaves an error of the order of its square.

    Args:
        spans: Of the earlier tasks.
        vectors: X, [n, r, d].
        energy: As many directions are added, the largest first, as it takes for the span to hold this share of
            |X|_F^2; 1: all. This is the criterion of Gradient Projection Memory (arXiv 2103.09762), there for
            activations, here for vectors.
        tolerance: See above.
    """
    exact, basis = _exact(vectors), _exact(spans.basis)
    left = exact - exact @ basis.mT @ basis
    left = left - left @ basis.mT @ basis
    q, r = torch.linalg.qr(left.mT)  # [n, d, k], [n, k, r] with k = min(r, d)
    turned, sizes, _ = torch.linalg.svd(r, full_matrices=False)  # [n, k, k], [n, k] from large to small
    directions = (q @ turned).mT
    largest = spans.largest.maximum(torch.linalg.matrix_norm(exact, ord=2))
    not_held = sizes.square().flip(-1).cumsum(-1).flip(-1)  # if only those before it are taken
    counted = (sizes > tolerance * largest.unsqueeze(-1)) & (
        not_held > (1 - energy) * exact.square().sum((-2, -1)).unsqueeze(-1)
    )
    new = (directions * counted.unsqueeze(-1)).to(vectors)
    counted = counted.to(vectors.device)
    dimensions = spans.dimensions + counted.sum(-1)
    place = torch.arange(spans.basis.shape[1], device=vectors.device)
    filled = torch.cat([place < spans.dimensions.unsqueeze(-1), counted], 1)
    return Spans(_without_gaps(torch.cat([spans.basis, new], 1), filled, dimensions), dimensions, largest)


def _without_gaps(rows: Tensor, filled: Tensor, dimensions: Tensor) -> Tensor:
    """The filled rows [n, q, d] of each stack moved to its front, in their order, and no more rows than are needed."""
    if bool(filled.all()):
        return rows
    order = (~filled).long().argsort(dim=1, stable=True)[:, : int(dimensions.max())]
    return rows.gather(1, order.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def _exact(tensor: Tensor) -> Tensor:
    """In float64; on the CPU, if the device has no such numbers."""
    return tensor.detach().to("cpu" if tensor.device.type == "mps" else tensor.device, torch.float64)
