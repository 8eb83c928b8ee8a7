"""Terms of a product B A against loops over its entries, and what they keep for the backward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.products import sum_of_absolutes, sum_of_measures


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def entries(up: Tensor, down: Tensor) -> list[list[float]]:
    """B A, one sum after the other."""
    return [
        [math.fsum(b * a for b, a in zip(row, column, strict=True)) for column in down.T.tolist()]
        for row in up.tolist()
    ]


def test_the_sum_of_absolutes_and_its_gradients_are_those_of_the_entries() -> None:
    ups = [draw(5, 2, seed=1).requires_grad_(), draw(3, 2, seed=2).requires_grad_()]
    downs = [draw(2, 4, seed=3).requires_grad_(), draw(2, 6, seed=4).requires_grad_()]
    found = sum_of_measures((up, down, sum_of_absolutes) for up, down in zip(ups, downs, strict=True))
    (3.0 * found).backward()
    expected = 0.0
    for up, down in zip(ups, downs, strict=True):
        product = entries(up, down)
        expected += math.fsum(abs(entry) for row in product for entry in row)
        for row, of_row in enumerate(product):
            for rank in range(2):
                slope = math.fsum(math.copysign(1.0, d) * a for d, a in zip(of_row, down[rank].tolist(), strict=True))
                assert up.grad[row, rank].item() == pytest.approx(3 * slope, rel=1e-12, abs=1e-12)
        for column in range(down.shape[1]):
            for rank in range(2):
                slope = math.fsum(
                    math.copysign(1.0, product[row][column]) * up[row, rank].item() for row in range(len(up))
                )
                assert down.grad[rank, column].item() == pytest.approx(3 * slope, rel=1e-12, abs=1e-12)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_where_b_is_zero_nothing_pulls() -> None:
    up, down = torch.zeros(4, 2, requires_grad=True), draw(2, 3, seed=1).float().requires_grad_()
    found = sum_of_measures([(up, down, sum_of_absolutes)])
    found.backward()
    assert found == 0
    assert up.grad is not None
    assert not up.grad.any()
    assert down.grad is not None
    assert not down.grad.any()


def test_a_factor_that_is_not_trained_gets_no_gradient() -> None:
    up, down = draw(5, 2, seed=1).requires_grad_(), draw(2, 4, seed=2)
    sum_of_measures([(up, down, sum_of_absolutes)]).backward()
    torch.testing.assert_close(up.grad, (up @ down).detach().sign() @ down.T)
    assert down.grad is None


def test_no_matrix_as_large_as_the_product_is_kept() -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    up, down = draw(50, 2, seed=1).requires_grad_(), draw(2, 40, seed=2).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = sum_of_measures([(up, down, sum_of_absolutes)])
    assert sorted(kept) == [80, 100], "the two gradients"
    found.backward()
