"""OSF: a weight in two parts, of its large singular values, which stay, and of the small ones, which learn.

W = U_h S_h V_h + U_l S_l V_l
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.functional.latent import largest_triplets


@dataclass(frozen=True)
class Spectrum:
    """Singular triplets of a matrix: columns `left` [d_out, n], `sizes` [n] and rows `right` [n, d_in]."""

    left: Tensor
    sizes: Tensor
    right: Tensor

    def matrix(self) -> Tensor:
        """U S V, [d_out, d_in]."""
        return (self.left * self.sizes) @ self.right


def split(weight: Tensor, kept: int) -> tuple[Spectrum, Spectrum]:
    """The triplets of the `kept` largest singular values, and the others, in float64 on the CPU.

    Args:
        weight: W [d_out, d_in].
        kept: k.
    """
    left, sizes, right = largest_triplets(weight, min(weight.shape))
    return (
        Spectrum(left[:, :kept], sizes[:kept], right[:kept]),
        Spectrum(left[:, kept:], sizes[kept:], right[kept:]),
    )


def without_columns(matrix: Tensor, basis: Tensor) -> Tensor:
    """(I - U U^T) M: M's columns without what they have of U's.

    Args:
        matrix: M, [d, n].
        basis: U, orthonormal columns, [d, k].
    """
    return torch.addmm(matrix, basis, basis.mT @ matrix, alpha=-1)


def without_rows(matrix: Tensor, basis: Tensor) -> Tensor:
    """M (I - V^T V): M's rows without what they have of V's.

    Args:
        matrix: M, [n, d].
        basis: V, orthonormal rows, [k, d].
    """
    return torch.addmm(matrix, matrix @ basis.mT, basis, alpha=-1)


def number_kept(share: float, d_out: int, d_in: int) -> int:
    """The number of singular values that a share of all of them is: rounded down, but at least 1."""
    return max(1, int(share * min(d_out, d_in)))
