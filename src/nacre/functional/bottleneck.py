"""Bottleneck adapters (Houlsby et al., 2019), many of them on one input, each with a weight for every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Nonlinearity = Literal["gelu", "relu", "silu"]

NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
"""Each maps 0 to 0."""


def mixed_bottlenecks(
    h: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, weights: Tensor, nonlinearity: Nonlinearity
) -> Tensor:
    """`sum_i w_i (U_i f(D_i h + b_i) + c_i)`, all of them in two products.

    Args:
        h: [B, ..., d].
        down: D_i, [t, m, d].
        down_bias: b_i, [t, m].
        up: U_i transposed, [t, m, d].
        up_bias: c_i, [t, d].
        weights: w_i of each row, [B, t].
        nonlinearity: f.

    Returns:
        [B, ..., d].
    """
    codes = NONLINEARITIES[nonlinearity](F.linear(h, down.flatten(0, 1), down_bias.flatten()))
    gates = weights.to(codes).view(len(weights), *[1] * (h.ndim - 2), -1)  # [B, 1, ..., t]
    weighted = codes.view(*codes.shape[:-1], *down.shape[:2]) * gates.unsqueeze(-1)
    mixed: Tensor = weighted.flatten(-2) @ up.flatten(0, 1) + gates @ up_bias
    return mixed
