"""Terms of a matrix product B A that is as large as a weight: its entries are seen and not kept.

    f(B A)        dL/dB = f'(B A) A^T        dL/dA = B^T f'(B A)

Autograd would keep B A and f' of every site until the backward pass. Here both gradients, which are as small as the
factors, are taken at once, and the matrix is gone before the next site's is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ProductMeasure = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a matrix [d_out, d_in] to a scalar and its slope there, [d_out, d_in]."""


def sum_of_measures(products: Iterable[tuple[Tensor, Tensor, ProductMeasure]]) -> Tensor:
    """sum f(B A), a scalar whose gradient reaches the factors.

    Args:
        products: B [d_out, r], A [r, d_in] and f of each site.
    """
    terms = [_OfProduct.apply(measure, up, down) for up, down, measure in products]  # type: ignore[no-untyped-call]
    return torch.stack(terms).sum()


def sum_of_absolutes(product: Tensor) -> tuple[Tensor, Tensor]:
    """sum_jk |D_jk| and its slope sign(D), which is 0 at 0, where every LoRA's update begins."""
    return product.abs().sum(), product.sign()


class _OfProduct(torch.autograd.Function):
    """f(B A) of one site."""

    @staticmethod
    def forward(ctx: Any, measure: ProductMeasure, up: Tensor, down: Tensor) -> Tensor:
        value, slope = measure(up @ down)
        _, up_wanted, down_wanted = ctx.needs_input_grad
        ctx.save_for_backward(slope @ down.mT if up_wanted else None, up.mT @ slope if down_wanted else None)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        up, down = ctx.saved_tensors
        return None, None if up is None else weight * up, None if down is None else weight * down
