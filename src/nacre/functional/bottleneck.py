"""Bottleneck adapters (Houlsby et al., 2019), many of them on one input, each with a weight for every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from nacre.functional.grouped import Body, Grouped
from nacre.functional.segments import Segments

Nonlinearity = Literal["gelu", "relu", "silu"]

NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
"""Each maps 0 to 0."""


def slot_bottlenecks(
    h: Tensor,
    read: Tensor,
    down: Tensor,
    down_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    segments: Segments,
    nonlinearity: Nonlinearity,
    body: Body | None = None,
) -> Tensor:
    """`h_b + U_i f(D_i h_b + b_i) + c_i`, i the slot of row b; h_b where it has none.

    Args:
        h: [B, ..., d].
        read: h in the adapters' type.
        down: D_i of the G slots that answer any row, in their order, [G, m, d].
        down_bias: b_i, [G, m].
        up: U_i transposed, [G, m, d].
        up_bias: c_i, [G, d].
        segments: The slot of each row; some row has one.
        nonlinearity: f.
        body: How products are computed; None: as suits them.

    Returns:
        [B, ..., d].
    """
    sizes = up.shape[1], up.shape[2]
    grouped = Grouped.of(read, segments, sizes) if body is None else Grouped.by(body, segments, read.device)
    codes = NONLINEARITIES[nonlinearity](grouped.linear(grouped.take(read), down, down_bias))
    return grouped.add(h, grouped.linear(codes, up.mT, up_bias).to(h.dtype))


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
