"""GainLoRA's gates: how much of each task's LoRA an input takes, by a small network and a key for each task.

x1 = silu(A p)      x2 = silu(B x1)      g = |2 sigmoid(4 cos(x2, k)) - 1| = |tanh(2 cos(x2, k))|, at most 0.964

p: the mean of the input's word embeddings [d]; A [h, d], B [d, h], no biases; k [d].
Source: GainLoRA (arXiv 2505.15424), as released.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gate_codes(pooled: Tensor, inner: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """x1 and x2 of every task.

    Args:
        pooled: p [B, d].
        inner: A [t, h, d].
        outer: B [t, d, h].

    Returns:
        [B, t, h] and [B, t, d].
    """
    first = F.silu((pooled @ inner.flatten(0, 1).T).view(len(pooled), *inner.shape[:2]))
    return first, F.silu(torch.einsum("bth,tdh->btd", first, outer))


def gates_of(codes: Tensor, keys: Tensor) -> Tensor:
    """g [B, t] of x2 [B, t, d] and k [t, d]."""
    return (2 * F.cosine_similarity(codes, keys, dim=-1)).tanh().abs()


def kept(values: Tensor, start: Tensor, basis: Tensor, *, restore_norms: bool = False) -> Tensor:
    """A parameter whose change has no part in the span of earlier inputs: X - (X - X0) M^T M.

    Args:
        values: X [n, d], its rows read inputs [d].
        start: X0, what it began with.
        basis: M, orthonormal rows [k, d].
        restore_norms: Whether each row is given the length back that it had before, as released. Then the change has a
            part in the span again.

    Returns:
        [n, d].
    """
    projected: Tensor = values - (values - start) @ basis.T @ basis
    if not restore_norms:
        return projected
    lengths: Tensor = values.norm(dim=1, keepdim=True) / projected.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return projected * lengths
