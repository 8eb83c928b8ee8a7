"""SLAO's two formulas against Gram and Schmidt, and against weights of the tasks one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.averaged_factors import averaged
from nacre.functional.sensitivity import orthonormal_rows


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_schmidt(rows: list[list[float]]) -> list[list[float]]:
    """Row by row: what is left of each outside the ones before, at length 1. It is QR with a positive diagonal."""
    found: list[list[float]] = []
    for row in rows:
        for other in found:
            along = math.fsum(a * b for a, b in zip(row, other, strict=True))
            row = [a - along * b for a, b in zip(row, other, strict=True)]
        length = math.sqrt(math.fsum(a * a for a in row))
        found.append([a / length for a in row])
    return found


@pytest.mark.parametrize(("rank", "d"), [(1, 4), (3, 7), (5, 5)])
def test_the_basis_is_that_of_gram_and_schmidt(rank: int, d: int) -> None:
    down = draw(rank, d, seed=rank)
    found = orthonormal_rows(down)
    torch.testing.assert_close(
        found, torch.tensor(gram_schmidt(down.tolist()), dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(found @ found.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(down @ found.T @ found, down, rtol=0, atol=1e-12)  # the rows' span is the same


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_average_is_a_weighted_mean_of_all_tasks(power: float) -> None:
    """Task i has the weight i^-p times the product of 1 - j^-p over the later ones, and they sum to 1."""
    ups = [draw(4, 3, seed=number) for number in range(15)]
    found = ups[0]
    for number, up in enumerate(ups[1:], start=2):
        found = averaged(found, up, number, power)
    weights = [
        number**-power * math.prod(1 - later**-power for later in range(number + 1, 16)) for number in range(1, 16)
    ]
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-12)
    expected = sum((weight * up for weight, up in zip(weights, ups, strict=True)), torch.zeros(4, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if power == 0.5:
        assert [round(weights[0], 4), round(weights[-1], 2)] == [0.0007, 0.26]
