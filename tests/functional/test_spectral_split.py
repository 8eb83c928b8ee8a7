"""OSF's split and projections, entry by entry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.spectral_split import number_kept, split, without_columns, without_rows


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("d_out", "d_in", "kept"), [(5, 5, 2), (7, 4, 3), (4, 9, 1)])
def test_the_parts_are_the_large_and_the_small_triplets(d_out: int, d_in: int, kept: int) -> None:
    weight = draw(d_out, d_in, seed=kept)
    high, low = split(weight, kept)
    torch.testing.assert_close(high.matrix() + low.matrix(), weight, rtol=0, atol=1e-13)
    assert len(high.sizes) == kept
    assert len(low.sizes) == min(d_out, d_in) - kept
    assert high.sizes.min() >= low.sizes.max()
    for part in (high, low):  # W v = s u and W^T u = s v
        torch.testing.assert_close(weight @ part.right.T, part.left * part.sizes, rtol=0, atol=1e-13)
        torch.testing.assert_close(weight.T @ part.left, part.right.T * part.sizes, rtol=0, atol=1e-13)
    nearest = torch.linalg.matrix_norm(weight - high.matrix())  # Eckart and Young: no matrix of this rank is nearer
    assert nearest.item() == pytest.approx(math.sqrt(math.fsum(s * s for s in low.sizes.tolist())), rel=1e-12)


def test_projections_take_out_one_direction_after_the_other() -> None:
    high, _ = split(draw(6, 5, seed=1), 2)
    columns, rows = draw(6, 3, seed=2), draw(3, 5, seed=3)
    expected, expected_rows = columns.clone(), rows.clone()
    for number in range(2):
        u, v = high.left[:, number], high.right[number]
        expected -= torch.outer(u, u @ expected)
        expected_rows -= torch.outer(expected_rows @ v, v)
    torch.testing.assert_close(without_columns(columns, high.left), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(without_rows(rows, high.right), expected_rows, rtol=0, atol=1e-13)


def test_a_share_is_rounded_down_and_something_always_stays() -> None:
    assert [number_kept(share, 16, 8) for share in (0.01, 0.5, 0.7, 0.99)] == [1, 4, 5, 7]
