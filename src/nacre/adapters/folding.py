"""How summed updates become part of a working copy of the weight, and where they had better not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.functional.low_rank import folded_weight

LOST_IN_HALF_PRECISION = 1e-2
"""|s sum B_i A_i|_F / |W|_F below which an update is not added to a weight of half precision. bfloat16 keeps a number
to one part in 2^8: rounding the sum errs by 0.17 % of the weight, which at this ratio is 17 % of the update, at a tenth
of it 80 %. float16 is eight times finer; one limit for both keeps the choice simple."""


@dataclass(frozen=True)
class Folding:
    """How a site computes its earlier tasks. ratio: |s sum_{i<t} B_i A_i|_F / |W|_F; None where W cannot be read.
    obstacle: why their sum is not part of a working copy of the weight; None if it is.
    """

    ratio: float | None
    obstacle: str | None = None


def folded(pristine: Tensor, down: Tensor, up: Tensor, *, scale: float) -> tuple[Tensor | None, Folding]:
    """W + s sum B_i A_i in W's type, from the pristine weight and all the tasks at once, anew each time: adding the
    newest to the last working weight would cost less, but would round once a task, and a resumed run would have other
    bits. None where it would be lost in the rounding.

    pristine [d_out, d_in], down [t, r, d_in], up [t, r, d_out] (transposed), in full precision.
    """
    weight = pristine.to(down.dtype)
    total = folded_weight(weight, down, up, scale=scale)
    update, size = torch.dist(total, weight).item(), torch.linalg.vector_norm(weight).item()
    ratio = update / size if size else math.inf
    if pristine.dtype != total.dtype and ratio < LOST_IN_HALF_PRECISION:
        reason = f"their sum is so small beside the weight that it would be lost in the rounding to {pristine.dtype}"
        return None, Folding(ratio, reason)
    return total.to(pristine.dtype), Folding(ratio)


def is_lost(folding: Folding | None, x: Tensor) -> bool:
    """Whether a folded update is too small for the half precision that autocast is going to round it to."""
    ratio = None if folding is None else folding.ratio
    return ratio is not None and ratio < LOST_IN_HALF_PRECISION and torch.is_autocast_enabled(x.device.type)
