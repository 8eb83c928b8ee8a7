"""Uncertainty over seeds and over test rows: two questions, never mixed.

Over seeds: other random starts and data orders on the same rows; Student's t interval.
Over rows: other test rows with the same trained models; percentile bootstrap. (Both methods of a pair answer the same
rows, so their differences, row by row, are resampled.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nacre.seeds import derive

LEVEL = 0.95
"""The confidence level of every interval."""

NOTHING = 1e-9
"""The limit below which a difference counts as zero. The rounding error where gains and losses cancel is far below; the
smallest difference that a test set of a million rows can have is far above."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether zero lies inside, up to rounding."""
        return self.low <= NOTHING and self.high >= -NOTHING


@dataclass(frozen=True)
class Spread:
    """A value over n seeds.

    Attributes:
        n: Number of seeds.
        mean: The mean.
        deviation: The sample standard deviation (n - 1); None with one seed.
        interval: Of the mean; None with one seed.
    """

    n: int
    mean: float
    deviation: float | None
    interval: Interval | None


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation s and mean +- t(0.975, n - 1) s / sqrt(n).

    Source: Student's interval; the n of this field (2 to 10) is too small for a bootstrap over seeds.

    Args:
        values: One a seed, at least one.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Spread(1, mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = student_quantile((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n)
    return Spread(n, mean, deviation, Interval(mean - reach, mean + reach))


def student_quantile(probability: float, freedom: int) -> float:
    """The t below which a Student variable lies with a probability.

    Args:
        probability: In [0.5, 1).
        freedom: Degrees of freedom, a whole number from 1.
    """
    low, high = 0.0, 1.0
    while student_within(high, freedom) < 2 * probability - 1:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if not low < middle < high:  # neighbors among the floating-point numbers
            return high
        if student_within(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle


def student_within(t: float, freedom: int) -> float:
    """P(-t <= T <= t) of a Student variable with a whole number of degrees of freedom: a finite sum.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4, theta = arctan(t / sqrt(freedom)).
    """
    theta = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for power in range(2 + odd, freedom + 1, 2):  # freedom // 2 terms
        total += term
        term *= cosine**2 * (power - 1) / power
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def over_rows(differences: Sequence[NDArray[np.float64]], *, seed: int, samples: int) -> Interval:
    """Percentile bootstrap of (1/T) sum_j mean(d_j): rows are resampled within each task, with replacement.

    Drawing n_j rows and counting each value of d_j is the same as drawing the counts, so only the distinct values
    matter: three of them for right and wrong with one seed.

    Args:
        differences: T arrays d_j [n_j]: for each test row of task j, one method's score minus the other's, as the mean
            over the seeds (the same rows are drawn for all seeds).
        seed: Of the resampling.
        samples: Number of resamples.
    """
    rng = np.random.default_rng(derive(seed, "bootstrap over rows"))
    total = np.zeros(samples)
    for task in differences:
        values, counts = np.unique(task, return_counts=True)
        n = len(task)
        block = max(1, 2_000_000 // len(values))  # draws at once; their counts are held in memory
        for start in range(0, samples, block):
            stop = min(start + block, samples)
            total[start:stop] += rng.multinomial(n, counts / n, size=stop - start) @ values / n
    low, high = np.quantile(total / len(differences), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
