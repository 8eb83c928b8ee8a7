"""Values and intervals on a common axis, a strip for each line of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nacre.report import numbers

MOST_TICKS = 6


@dataclass(frozen=True)
class Bar:
    """One interval, in percent of the strip. kind: of which two lie above each other, "seeds" above "rows"."""

    kind: str
    left: float
    right: float
    hover: str


@dataclass(frozen=True)
class Strip:
    """middle: where the value stands, in percent of the strip; dots: single seeds, with what they say."""

    middle: float | None
    bars: tuple[Bar, ...] = ()
    dots: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Axis:
    """From low to high, fractions. ticks: positions in percent with their texts, in percentage points."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Position of a value in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def axis_over(values: Iterable[float | None], *, zero: bool) -> Axis:
    """An axis that holds all the values, and zero if wanted, with ticks at round numbers."""
    known = [value for value in values if value is not None] + ([0.0] if zero else [])
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = max(high - low, 0.002) * 0.06
    low, high = low - room, high + room
    step = _step((high - low) / MOST_TICKS)
    first = math.ceil(low / step)
    ticks = [first + number for number in range(MOST_TICKS + 1) if (first + number) * step <= high]
    axis = Axis(low, high, ())
    decimals = max(0, -math.floor(math.log10(100 * step) + 1e-9))
    text = [(axis.at(tick * step), numbers.percent(tick * step, decimals)) for tick in ticks]
    return Axis(low, high, tuple(text))


def bar(axis: Axis, kind: str, low: float | None, high: float | None, hover: str) -> tuple[Bar, ...]:
    """The bar of an interval; none where it is not defined."""
    if low is None or high is None:
        return ()
    return (Bar(kind, axis.at(low), axis.at(high), hover),)


def dots(axis: Axis, values: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Positions of single values with what they say."""
    return tuple((axis.at(value), hover) for value, hover in values)


def _step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least so large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
