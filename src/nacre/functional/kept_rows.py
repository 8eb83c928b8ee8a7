"""A linear map whose backward pass computes the weight's gradient for some output features only: the kept rows.

The gradient of all others is 0, as if the whole gradient had been masked, at the cost of the kept rows' product.

    h = W x + b        dL/dx = W^T G        dL/dW[j] = sum over tokens of G_j x^T, dL/db_j = sum of G_j    for kept j

G = dL/dh. Which features are kept may be decided as late as in the backward pass. Kept for it are x and W, as a plain
linear map keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.functional.masking import at_first, in_order

FEWEST = 192
"""Fewest rows of a product on the CPU. Rows beyond the kept ones are thrown away, and a map with fewer features is
computed whole: with fewer rows, BLAS libraries sum over many tokens in other blocks, and the last bits would differ."""

LinearGradients = tuple[Tensor | None, Tensor | None, Tensor | None, None, None]


@dataclass(frozen=True)
class ChosenRows:
    """The features of one map that a step updates.

    Attributes:
        computed: Their indices in order, then those of others whose rows are computed along, [m].
        number: How many are kept, known without asking the device.
        mask: True at the kept ones, [features].
    """

    computed: Tensor
    number: int
    mask: Tensor

    @property
    def kept(self) -> Tensor:
        """Indices of the kept features, [number]."""
        return self.computed[: self.number]


class Choice(Protocol):
    """Which features of one map are updated: what its backward pass asks."""

    def rows(self) -> ChosenRows | None:
        """The features whose gradients are needed; None for all."""
        ...

    def made(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """Called when `rows` gave some, with gradients that are 0 everywhere else.

        Args:
            weight: dL/dW, or None if it was not needed.
            bias: dL/db, or None.
        """
        ...


def largest_rows(scores: Sequence[Tensor], kept: int) -> list[ChosenRows]:
    """The features with the largest scores of each map; of equal ones, those of lower index.

    Args:
        scores: [features] for each map; all maps have the same number of features.
        kept: How many features each map keeps.

    Returns:
        One value for each map.
    """
    order = in_order(torch.stack(list(scores)))
    features = order.shape[-1]
    computed = kept
    if order.device.type == "cpu":
        computed = max(kept, min(FEWEST, features))
    indices = torch.cat([order[:, :kept].sort(-1).values, order[:, kept:computed]], dim=-1)
    masks = at_first(order, kept)
    return [ChosenRows(row, kept, mask) for row, mask in zip(indices, masks, strict=True)]


def weight_gradient(gradient: Tensor, x: Tensor, rows: ChosenRows, *, transposed: bool) -> Tensor:
    """dL/dW, 0 outside the kept rows.

    Args:
        gradient: G, [tokens, features].
        x: [tokens, d_in].
        rows: The kept features.
        transposed: Whether the weight is stored as [d_in, features].

    Returns:
        [features, d_in]; transposed, [d_in, features].
    """
    axis = 1 if transposed else 0
    if gradient.device.type == "cpu" and not _same_bits(gradient, x, rows, transposed):
        whole = x.t().mm(gradient) if transposed else gradient.t().mm(x)
        return whole.masked_fill_(~rows.mask.unsqueeze(1 - axis), 0)
    product = _product(gradient, x, rows, transposed).narrow(axis, 0, rows.number)
    shape = (x.shape[1], gradient.shape[1]) if transposed else (gradient.shape[1], x.shape[1])
    return product.new_zeros(shape).index_copy_(axis, rows.kept, product)


def _product(gradient: Tensor, x: Tensor, rows: ChosenRows, transposed: bool) -> Tensor:
    """The computed rows of dL/dW, [m, d_in]; transposed: [d_in, m]."""
    some = gradient.index_select(1, rows.computed)
    return x.t().mm(some) if transposed else some.t().mm(x)


_compared: dict[tuple[object, ...], bool] = {}
"""By type and sizes of the products: whether this processor makes the same bits of a row alone."""


def _same_bits(gradient: Tensor, x: Tensor, rows: ChosenRows, transposed: bool) -> bool:
    """Whether the kept rows' product has the bits of the whole one.

    A BLAS library chooses its routine by the sizes and the processor alone, so that one comparison for each size is
    enough: with the first gradient of that size.
    """
    features, computed = gradient.shape[1], len(rows.computed)
    if features < FEWEST:
        return False  # so small a product costs nothing, and a comparison could come out equal by luck
    key = (gradient.dtype, *x.shape, features, computed, rows.number, transposed, torch.get_num_threads())
    if key not in _compared:
        whole = x.t().mm(gradient) if transposed else gradient.t().mm(x)
        axis = 1 if transposed else 0
        _compared[key] = torch.equal(
            _product(gradient, x, rows, transposed).narrow(axis, 0, rows.number), whole.index_select(axis, rows.kept)
        )
    return _compared[key]


class KeptRowsLinear(torch.autograd.Function):
    """The linear map whose weight gradient has kept rows only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, choice: Choice) -> Tensor:
        """W x + b.

        Args:
            ctx: Autograd's context.
            x: [..., d_in].
            weight: [features, d_in]; transposed, [d_in, features], as GPT-2 stores it.
            bias: [features]; required if transposed.
            transposed: Whether the weight is stored transposed.
            choice: Which features are kept; asked in the backward pass.

        Returns:
            [..., features].
        """
        ctx.save_for_backward(x, weight)
        ctx.transposed, ctx.choice = transposed, choice
        if not transposed:
            return F.linear(x, weight, bias)
        assert bias is not None
        return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> LinearGradients:
        """By x, weight and bias; see the module's docstring."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        gradient, tokens = gradients[0].flatten(0, -2), x.flatten(0, -2)
        d_x = d_weight = d_bias = None
        if wants_x:
            d_x = gradient.mm(weight.t() if ctx.transposed else weight).view(x.shape)
        if not wants_weight and not wants_bias:
            return d_x, None, None, None, None
        # Where the gradient is itself differentiated, everything is computed as by the plain map.
        rows = None if torch.is_grad_enabled() else ctx.choice.rows()
        if wants_bias:
            d_bias = gradient.sum(0)
            if rows is not None:
                d_bias.mul_(rows.mask)
        if wants_weight and rows is not None:
            d_weight = weight_gradient(gradient, tokens, rows, transposed=ctx.transposed)
        elif wants_weight:
            d_weight = tokens.t().mm(gradient) if ctx.transposed else gradient.t().mm(tokens)
        if rows is not None:
            ctx.choice.made(d_weight, d_bias)
        return d_x, d_weight, d_bias, None, None
