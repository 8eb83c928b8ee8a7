"""ELLA's penalty: how large an update is where earlier updates are large, in two forms that compute the same.

D = s B A, the update being trained, P = s sum_i B_i A_i, the earlier ones', * entry by entry:

    dense:      e = ||D * P||_F^2, de/dD = 2 P * P * D
    rank space: D * P = s^2 F K^T, with F [d_out, r R] the products of B's and the B_i's columns, K [d_in, r R] those of
                A's and the A_i's rows, R the ranks of all earlier tasks; e = s^4 <F^T F, K^T K>
"""

from __future__ import annotations

import torch
from torch import Tensor

from nacre.functional.products import ProductMeasure


def energy_where(past: Tensor, *, scale: float) -> ProductMeasure:
    """The dense form as a function of the product B A.

    Args:
        past: P, [d_out, d_in].
        scale: s.
    """
    weights = (scale * past).square()

    def measured(product: Tensor) -> tuple[Tensor, Tensor]:
        weighted = weights * product
        return torch.vdot(weighted.flatten(), product.flatten()), weighted.mul_(2)

    return measured


def energy_in_rank_space(up: Tensor, down: Tensor, past_up: Tensor, past_down: Tensor, *, scale: float) -> Tensor:
    """The other form, of n sites at once, which forms no matrix of a weight's size.

    Args:
        up: B, [n, d_out, r].
        down: A, [n, r, d_in].
        past_up: All B_i, [n, d_out, R].
        past_down: All A_i, [n, R, d_in].
        scale: s.

    Returns:
        Each site's e, [n].
    """
    columns = (up.unsqueeze(-1) * past_up.unsqueeze(-2)).flatten(-2)  # F
    rows = (down.unsqueeze(-2) * past_down.unsqueeze(-3)).flatten(-3, -2)  # K^T
    return scale**4 * ((columns.mT @ columns) * (rows @ rows.mT)).sum((-2, -1))


def is_small_in_rank_space(d_out: int, d_in: int, rank: int, past_rank: int) -> bool:
    """Whether rank space needs fewer multiplications than forming B A: true for few tasks of wide maps only."""
    return (d_out + d_in) * (rank * past_rank) ** 2 <= d_out * d_in * rank
