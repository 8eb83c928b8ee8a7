"""Running class statistics against scikit-learn, and sums without rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from sklearn.covariance import oas as sklearn_oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from nacre.functional.class_statistics import best_strings, discriminant, joined, oas, scatter, shrunk
from nacre.functional.exact_sums import ExactSum


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def symmetric(draw: Callable[..., Tensor], size: float) -> Tensor:
    rows = draw(9, 5)
    return size * rows.T @ rows


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e9])
def test_exact_sums_have_the_same_bits_in_any_order_and_grouping(draw: Callable[..., Tensor], size: float) -> None:
    matrices = [symmetric(draw, size) - 3 * size * (number % 2) for number in range(40)]
    terms = [ExactSum.of(matrix) for matrix in matrices]

    def total(order: list[int]) -> ExactSum:
        whole = terms[order[0]]
        for number in order[1:]:
            whole = whole + terms[number]
        return whole

    forward, backward = total(list(range(40))), total(list(range(39, -1, -1)))
    halves = total(list(range(0, 40, 2))) + total(list(range(1, 40, 2)))
    for other in (backward, halves):
        assert torch.equal(forward.high, other.high)
        assert torch.equal(forward.low, other.low)
    assert float(forward.low.min()) >= 0
    expected = np.stack([matrix.numpy() for matrix in matrices]).astype(np.longdouble).sum(0)
    found = forward.matrix().numpy()
    assert np.array_equal(found, found.T)
    # As good as one rounding of the true sum: of a term no more than 2^-63 was lost.
    assert (np.abs(found - expected) <= np.abs(expected) * 2.0**-52 + 40 * 2.0**-62).all()
    without = forward - terms[7]
    alone = total([number for number in range(40) if number != 7])
    assert torch.equal(without.high, alone.high)
    assert torch.equal(without.low, alone.low), "a term is taken out without a trace"


def test_what_does_not_fit_is_refused() -> None:
    for wrong in (float("nan"), float("inf"), 2.0**50):
        with pytest.raises(OverflowError, match="not finite, or larger"):
            ExactSum.of(torch.full((2, 2), wrong, dtype=torch.float64))


def test_two_halves_joined_are_one_pass(draw: Callable[..., Tensor]) -> None:
    states = draw(60, 4) + 100
    one, two = states[:23], states[23:]
    mean, lacking = joined(one.mean(0), 23, two.mean(0), 37)
    torch.testing.assert_close(mean, states.mean(0), rtol=1e-14, atol=0)
    halves = scatter(one, one.mean(0)) + scatter(two, two.mean(0)) + lacking
    torch.testing.assert_close(halves, scatter(states, states.mean(0)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rows", [3, 30, 500])
def test_oas_is_scikit_learns(draw: Callable[..., Tensor], rows: int) -> None:
    states = draw(rows, 8) @ draw(8, 8) + 5
    covariance = torch.from_numpy(empirical_covariance(states.numpy()))
    expected, share = sklearn_oas(states.numpy())
    assert oas(covariance, rows) == pytest.approx(share, rel=1e-12)
    assert oas(7 * covariance, rows) == pytest.approx(share, rel=1e-12), "a factor does not matter"
    np.testing.assert_allclose(shrunk(covariance, share).numpy(), expected, rtol=1e-12, atol=1e-12)
    assert oas(torch.eye(4, dtype=torch.float64), 10) == 1.0
    assert torch.equal(shrunk(torch.zeros(3, 3), 0.0), torch.eye(3))


def test_the_discriminant_is_scikit_learns(draw: Callable[..., Tensor]) -> None:
    centers = 2 * draw(4, 6)
    classes = torch.arange(400) % 7 % 4  # unequal counts
    states, tests = draw(400, 6) @ draw(6, 6) + centers[classes], 2 * draw(300, 6)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(states.numpy(), classes.numpy())
    groups = [states[classes == number] for number in range(4)]
    means = torch.stack([group.mean(0) for group in groups])
    pooled = torch.stack([scatter(group, group.mean(0)) for group in groups]).sum(0) / 400
    np.testing.assert_allclose(means.numpy(), theirs.means_, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(pooled.numpy(), theirs.covariance_, rtol=1e-10, atol=1e-10)
    counts = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    solved = discriminant(means, pooled, (counts / 400).log())
    assert solved is not None
    weights, offsets = solved
    np.testing.assert_allclose(weights.T.numpy(), theirs.coef_, rtol=1e-9, atol=1e-9)
    assert ((tests @ weights + offsets).argmax(1).numpy() == theirs.predict(tests.numpy())).all()


def test_an_affine_map_changes_nothing_without_shrinkage_and_full_shrinkage_is_the_nearest_mean(
    draw: Callable[..., Tensor],
) -> None:
    means, tests, square = draw(5, 6), draw(50, 6), symmetric_of(draw)
    change, offset = draw(6, 6), draw(6)
    flat = torch.zeros(5, dtype=torch.float64)

    def best(means: Tensor, covariance: Tensor, states: Tensor) -> list[int]:
        solved = discriminant(means, covariance, flat)
        assert solved is not None
        return (states @ solved[0] + solved[1]).argmax(1).tolist()

    moved = best(means @ change + offset, change.T @ square @ change, tests @ change + offset)
    assert moved == best(means, square, tests)
    assert best(means, shrunk(square, 1.0), tests) == torch.cdist(tests, means).argmin(1).tolist()
    assert discriminant(means, torch.ones(6, 6, dtype=torch.float64), flat) is None


def symmetric_of(draw: Callable[..., Tensor]) -> Tensor:
    rows = draw(40, 6)
    return rows.T @ rows


def test_a_string_has_its_best_class_or_the_sum_of_its_classes() -> None:
    scores = torch.tensor([[0.4, 0.3, 0.3], [0.5, 0.1, 0.4], [0.0, 0.0, 0.0]]).log()
    assert best_strings(scores, [0, 1, 1], by_sum=False) == [0, 0, 0]
    assert best_strings(scores, [0, 1, 1], by_sum=True) == [1, 0, 0]
