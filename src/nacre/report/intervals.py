"""Values and intervals on a common axis, a strip for each line of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nacre.report import numbers

MOST_TICKS = 6


@dataclass(frozen=True)
class Bar:
    """One interval.

    Attributes:
        kind: What it is over, "seeds" or "rows"; the first lies above the second.
        left: Where it begins, in percent of the strip.
        right: Where it ends.
        hover: What it says.
    """

    kind: str
    left: float
    right: float
    hover: str


@dataclass(frozen=True)
class Strip:
    """One line of a chart of intervals.

    Attributes:
        middle: Where the value stands, in percent of the strip; None where it is not defined.
        bars: Its intervals.
        dots: Single seeds: where they stand and what they say.
    """

    middle: float | None
    bars: tuple[Bar, ...] = ()
    dots: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Axis:
    """What the strips of a table are measured by.

    Attributes:
        low: Its left end, a fraction.
        high: Its right end.
        ticks: Positions in percent with their texts, in percentage points.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """The position of a value.

        Args:
            value: A fraction.

        Returns:
            Percent of the strip, from the left.
        """
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def axis_over(
    values: Iterable[float | None], *, zero: bool, within: tuple[float, float] = (-math.inf, math.inf)
) -> Axis:
    """An axis that holds all the values, with ticks at round numbers.

    Args:
        values: Fractions; None is left out.
        zero: Whether it holds zero, too.
        within: Beyond which it does not reach: where no value can lie there is nothing to draw.
    """
    known = [value for value in values if value is not None] + ([0.0] if zero else [])
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = max(high - low, 0.002) * 0.06
    low, high = max(low - room, within[0]), min(high + room, within[1])
    step = _step((high - low) / MOST_TICKS)
    first = math.ceil(low / step)
    ticks = [first + number for number in range(MOST_TICKS + 1) if (first + number) * step <= high]
    axis = Axis(low, high, ())
    decimals = max(0, -math.floor(math.log10(100 * step) + 1e-9))
    text = [(axis.at(tick * step), numbers.percent(tick * step, decimals)) for tick in ticks]
    return Axis(low, high, tuple(text))


def bar(axis: Axis, kind: str, low: float | None, high: float | None, hover: str) -> tuple[Bar, ...]:
    """The bar of an interval; none where it is not defined.

    Args:
        axis: Of the strip.
        kind: See `Bar`.
        low: A fraction.
        high: A fraction.
        hover: What it says.
    """
    if low is None or high is None:
        return ()
    return (Bar(kind, axis.at(low), axis.at(high), hover),)


def dots(axis: Axis, values: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Positions of single values with what they say.

    Args:
        axis: Of the strip.
        values: Fractions with what they say.
    """
    return tuple((axis.at(value), hover) for value, hover in values)


def _step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least so large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
