"""Sums of low-rank updates: a task's own (LoRA, Eq. 1) and all earlier ones (AM-LoRA Eq. 2) in one product."""

from __future__ import annotations

import torch
from torch import Tensor


def summed_update(x: Tensor, down: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """delta = s sum_i B_i A_i x, in rank space.

    x [..., d_in], down [t, r, d_in], up [t, r, d_out] (B_i transposed). Returns [..., d_out].
    """
    return scale * (x @ down.flatten(0, 1).T @ up.flatten(0, 1))


def folded_weight(weight: Tensor, down: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """W' = W + s sum_i B_i A_i, from the pristine weight in one product, so that a resumed run gets the same bits.

    weight [d_out, d_in] (float32 or float64), down [t, r, d_in], up [t, r, d_out] (transposed). Returns [d_out, d_in].
    """
    return torch.addmm(weight, up.flatten(0, 1).T, down.flatten(0, 1), alpha=scale)
