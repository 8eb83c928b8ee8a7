"""CoDe-LoRA's fold: one low-rank branch takes a task's update in.

E' = (B_t - U U^T B_t) A_t                      U: the left singular vectors of Co_{t-1}
Co_t = rank_r(sqrt((t - 1) / t) Co_{t-1} + sqrt(1 / t) E')

Products are never formed: singular values are those of a small core between the factors' orthonormal bases. All is
computed in float64 on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6
"""The share of the largest singular value up to which another one counts as zero."""

Factors = tuple[Tensor, Tensor]
"""A [r, d_in] and B, transposed [r, d_out], of the update B A."""


def consolidated(branch: Factors | None, newest: Factors, number: int) -> Factors:
    """Co_t, as sqrt(S) V^T [r, d_in] and sqrt(S) U^T [r, d_out]: of the same rank, S falling.

    Args:
        branch: Co_{t-1}; None before the first task.
        newest: A_t and B_t.
        number: t.
    """
    down, up = (factor.detach().to("cpu", torch.float64) for factor in newest)
    rank = len(down)
    if branch is not None:
        before_down, before_up = (factor.detach().to("cpu", torch.float64) for factor in branch)
        kept, gained = math.sqrt((number - 1) / number), math.sqrt(1 / number)
        up = gained * beside((before_down, before_up), up)
        down, up = torch.cat([before_down, down]), torch.cat([kept * before_up, up])
    left, sizes, right = singular_triplets((down, up))
    found = min(rank, len(sizes))
    halves = sizes[:found].sqrt().unsqueeze(1)
    new_down, new_up = down.new_zeros(rank, down.shape[1]), up.new_zeros(rank, up.shape[1])
    new_down[:found], new_up[:found] = halves * right[:found], halves * left[:, :found].T
    return new_down, new_up


def beside(branch: Factors, up: Tensor) -> Tensor:
    """B_t - U U^T B_t, transposed [r, d_out]: what the branch's left singular vectors do not span.

    Args:
        branch: Co_{t-1}.
        up: B_t, transposed [r, d_out].
    """
    left, sizes, _ = singular_triplets(branch)
    basis = left[:, sizes > NEGLIGIBLE * sizes.max()]
    return up - up @ basis @ basis.T


def singular_triplets(update: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """U [d_out, k], S [k] and V^T [k, d_in] of B A, by QR of both factors and the SVD of the core between them."""
    down, up = update
    left, left_core = torch.linalg.qr(up.T)
    right, right_core = torch.linalg.qr(down.T)
    inner_left, sizes, inner_right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    return left @ inner_left, sizes, inner_right @ right.T
