"""Updates between frozen singular vectors of a weight (LoRA-XS, Latent-LoRA), and how alike two of them are.

W ~ U S V^T, the r largest triplets        D_i = U diag(S) R_i V^T        delta = s D(w) x,  R(w) = sum_i w_i R_i
<D_t, D_i>_F = tr(R_t^T S^2 R_i), because U and V are orthonormal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nacre.functional.signs import signs_of


def largest_triplets(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [d_out, r], S [r] and V^T [r, d_in] of W [d_out, d_in], in float64 on the CPU.

    The entry of largest size in each column of U is positive: otherwise a triplet's sign would be open.
    """
    left, sizes, right = torch.linalg.svd(weight.detach().to("cpu", torch.float64), full_matrices=False)
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    signs = signs_of(left.T)
    return left * signs.T, sizes, right * signs


def blended_codes(codes: Tensor, cores: Tensor, weights: Tensor) -> Tensor:
    """R(w_b) a of each row b, which costs the same whatever the number of tasks.

    Args:
        codes: a = V^T x, [B, ..., r].
        cores: R_i, [t, r, r].
        weights: w, [B, t].

    Returns:
        [B, ..., r].
    """
    blended = torch.einsum("bt,tij->bij", weights.to(cores), cores).to(codes)
    return (codes.reshape(len(codes), -1, codes.shape[-1]) @ blended.mT).view_as(codes)


def squared_cosines(newest: Tensor, earlier: Tensor, sizes: Tensor) -> Tensor:
    """<D_t, D_i>^2 / (||D_t||^2 ||D_i||^2); 0 where one of them is zero.

    Args:
        newest: R_t of n sites, [n, r, r].
        earlier: R_i, [n, t - 1, r, r].
        sizes: S, [n, r].

    Returns:
        [n, t - 1].
    """
    scaled, others = sizes[:, :, None] * newest, sizes[:, None, :, None] * earlier
    products = torch.einsum("nij,ntij->nt", scaled, others)
    squares = scaled.square().sum((1, 2))[:, None] * others.square().sum((2, 3))
    is_zero = squares == 0
    return torch.where(is_zero, 0.0, products.square() / torch.where(is_zero, 1.0, squares))
