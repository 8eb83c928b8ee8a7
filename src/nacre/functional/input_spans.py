"""Directions of a linear map's inputs, from their second moment, outside those that earlier tasks used.

C = mean of h h^T [d, d]      M: orthonormal rows, the directions that earlier tasks used [k, d]      P = I - M^T M

Directions of a new task: the left singular vectors of P C with the largest singular values (InfLoRA), which are
orthogonal to M. Directions that it used: as few of them as are needed for M and them to hold a share of C.

    share of 'moments', as in all released code:    ||C||_F^2 - ||P C||_F^2 + sum_j s_j^2 >= e ||C||_F^2,  s_j of P C
    share of 'inputs', as in GPM's text:            tr C - tr P C P + sum_j l_j >= e tr C,  l_j the eigenvalues of P C P

With the second, M holds the share e of the inputs' squared norm. With the first it holds that of squared eigenvalues.
Source: InfLoRA (arXiv 2404.00228); GPM (arXiv 2103.09762).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nacre.functional.signs import signs_of

ShareOf = Literal["moments", "inputs"]

TOLERANCE = 1e-12
"""Share of C's largest eigenvalue up to which a direction is rounding, not content."""


def outside(rows: Tensor, basis: Tensor) -> Tensor:
    """The rows [n, d] without their part in the span of orthonormal rows [k, d], taken out twice against rounding."""
    for _ in range(2):
        rows = rows - rows @ basis.T @ basis
    return rows


def top_directions(moment: Tensor, basis: Tensor, count: int) -> Tensor:
    """The first left singular vectors of P C: orthonormal rows, at most `count` of them, [q, d].

    Args:
        moment: C [d, d] in float64.
        basis: M [k, d] in float64.
        count: r.
    """
    directions, sizes = _directions(moment, basis)
    return directions[: min(count, _above_rounding(sizes, moment))]


def extended_basis(moment: Tensor, basis: Tensor, share: float, of: ShareOf) -> Tensor:
    """M with the fewest directions more that let it hold a share of C.

    Args:
        moment: C [d, d] in float64.
        basis: M [k, d] in float64.
        share: e; 1 adds every direction above rounding.
        of: What the share is of.

    Returns:
        Orthonormal rows, those of M first, [k + q, d].
    """
    if of == "moments":
        directions, sizes = _directions(moment, basis)
        held, whole = sizes.square(), moment.square().sum()
    else:
        left = outside(outside(moment, basis).T, basis)
        values, vectors = torch.linalg.eigh((left + left.T) / 2)
        directions, sizes = vectors.T.flip(0), values.flip(0).clamp(min=0)
        held, whole = sizes, moment.trace()
    lacking = held.flip(0).cumsum(0).flip(0)  # what is left out if only the directions before it are taken
    needed = int((lacking > (1 - share) * whole).sum())
    new = directions[: min(needed, _above_rounding(sizes, moment))]
    if len(new) == 0:
        return basis
    new, _ = torch.linalg.qr(outside(new, basis).T)  # rounding of small singular values leaves them a little askew
    return torch.cat([basis, outside(new.T, basis)])


def _directions(moment: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors of P C as rows, and the singular values, from large to small."""
    left, sizes, _ = torch.linalg.svd(outside(moment.T, basis).T, full_matrices=False)
    rows = left.T
    return rows * signs_of(rows), sizes


def _above_rounding(sizes: Tensor, moment: Tensor) -> int:
    """How many of the sizes are content."""
    return int((sizes > TOLERANCE * torch.linalg.matrix_norm(moment, ord=2)).sum())
