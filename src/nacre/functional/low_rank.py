"""Sums of low-rank updates: a task's own (LoRA, Eq. 1) and all earlier ones (AM-LoRA Eq. 2) in one product."""

from __future__ import annotations

import torch
from torch import Tensor


def summed_update(x: Tensor, down: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """delta = s sum_i B_i A_i x, in rank space.

    Args:
        x: [..., d_in].
        down: A_i, [t, r, d_in].
        up: B_i transposed, [t, r, d_out].
        scale: s.

    Returns:
        [..., d_out].
    """
    return scale * (x @ down.flatten(0, 1).T @ up.flatten(0, 1))


def folded_weight(weight: Tensor, down: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """W' = W + s sum_i B_i A_i, from the pristine weight in one product, so that a resumed run gets the same bits.

    Args:
        weight: W in float32 or float64, [d_out, d_in].
        down: A_i, [t, r, d_in].
        up: B_i transposed, [t, r, d_out].
        scale: s.

    Returns:
        [d_out, d_in].
    """
    return torch.addmm(weight, up.flatten(0, 1).T, down.flatten(0, 1), alpha=scale)
