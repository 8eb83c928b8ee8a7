"""How far own rows are at each length, beside NumPy, and the histogram around it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nacre.functional.distances_by_length import DISTANCE_BINS, Trend, histogram, quantile


def test_a_histogram_counts_every_distance_and_its_quantile_is_an_upper_end() -> None:
    squared = torch.tensor([0.0, 1e-9, 1.0, 2.0, 2.0, 300.0, 1e30], dtype=torch.float64)
    counts = histogram(squared)
    assert counts.sum() == 7
    assert len(counts) == DISTANCE_BINS
    assert counts[-1] == 1
    assert counts[0] == 2
    assert 1.0 < quantile(counts, 3 / 7) <= 2.0 ** (1 / 8)
    assert 300 < quantile(counts, 6 / 7) < 300 * 2.0 ** (1 / 8)
    assert torch.equal(counts, histogram(squared.flip(0)))


def test_the_trend_is_the_line_of_least_squares_with_one_row_more_that_knows_no_slope() -> None:
    """That row lies at the mean of the logarithms of d, an e-fold away from the mean of those of n."""
    generator = np.random.default_rng(3)
    lengths = generator.integers(5, 300, 400)
    squared = 7 * lengths**0.6 * generator.lognormal(0, 0.3, 400)
    x, y = np.log(lengths), np.log(squared)
    centered = np.append(x - x.mean(), 1.0)
    slope = np.linalg.lstsq(centered[:, None], np.append(y - y.mean(), 0.0), rcond=None)[0][0]
    trend = Trend.of(torch.from_numpy(squared), torch.from_numpy(lengths))
    assert trend.slope == pytest.approx(slope, rel=1e-12)
    assert trend.slope == pytest.approx(0.6, abs=0.05)
    at = trend.at(torch.tensor([20, 200]))
    assert at.tolist() == pytest.approx(np.exp(y.mean() + slope * (np.log([20, 200]) - x.mean())).tolist(), rel=1e-12)


def test_beyond_the_lengths_seen_nothing_is_extrapolated() -> None:
    trend = Trend.of(torch.tensor([4.0, 16.0]), torch.tensor([10, 40]))
    assert torch.equal(trend.at(torch.tensor([1, 1000])), trend.at(torch.tensor([10, 40])))
    assert 0 < trend.slope < 1, "two rows say 1, and the row that knows no slope less"


def test_rows_of_one_length_have_no_slope_and_none_at_all_no_trend() -> None:
    same = Trend.of(torch.tensor([1.0, 4.0]), torch.tensor([7, 7]))
    assert (same.slope, same.scale) == (0.0, pytest.approx(2.0))
    assert Trend.of(torch.zeros(0), torch.zeros(0, dtype=torch.long)) == Trend()
    assert Trend().at(torch.tensor([1, 500])).tolist() == [1.0, 1.0]
    assert math.isfinite(Trend.of(torch.zeros(3), torch.tensor([1, 2, 3])).scale), "rows that lie on their class's mean"
