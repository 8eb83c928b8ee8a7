"""What a comparison shows of two groups, as sentences."""

from __future__ import annotations

from collections.abc import Callable

from nacre.records.compare import HEADLINE
from nacre.records.comparison import Comparison, OverRows, OverSeeds, Pair
from nacre.report import numbers

PointsText = Callable[[float], str]
"""A difference of fractions as text, with its sign."""


def verdict(pair: Pair) -> str:
    """The verdict on a pair, without numbers.

    Args:
        pair: The pair.
    """
    if pair.verdict == "not shown":
        return f"Between {pair.first} and {pair.second} no difference is shown"
    return f"{pair.first} is {pair.verdict} than {pair.second}"


def sentence(pair: Pair, text: PointsText = numbers.points) -> str:
    """The verdict on a pair, with its numbers and what it rests on.

    Args:
        pair: The pair.
        text: How a difference is written.
    """
    spread = pair.metrics[HEADLINE]
    why = f"because {pair.reason}" if pair.verdict == "not shown" else f"shown {pair.reason}"
    if spread is None:
        return f"{verdict(pair)}, {why}."
    seeds, rows = interval(spread, text), interval(pair.rows, text)
    known = [f"{value} over {what}" for value, what in ((seeds, "seeds"), (rows, "test rows")) if value]
    intervals = f" (95 %: {'; '.join(known)})" if known else ""
    return f"{verdict(pair)}: {text(spread.mean)} points{intervals}, {why}."


def interval(ends: OverSeeds | OverRows | None, text: PointsText) -> str:
    """An interval as text; empty where there is none.

    Args:
        ends: The interval.
        text: How its ends are written.
    """
    if ends is None or ends.low is None or ends.high is None:
        return ""
    return f"{text(ends.low)} to {text(ends.high)}"


def result(comparison: Comparison) -> str:
    """What the whole comparison shows, in one sentence.

    Args:
        comparison: The comparison.
    """
    best = comparison.groups[0]
    spread = best.metrics[HEADLINE]
    if spread is None:
        return "Average accuracy is not defined in every run, so that the groups cannot be ranked."
    reached = f"{best.name} has the highest average accuracy, {numbers.percent(spread.mean)} %"
    rivals = len(comparison.groups) - 1
    if not rivals:
        return f"{best.name} reaches an average accuracy of {numbers.percent(spread.mean)} %."
    beaten = sum(pair.verdict == "better" for pair in comparison.pairs if pair.first == best.name)
    if beaten == rivals:
        return f"{reached}, and is shown to be better than {'the other' if rivals == 1 else f'all {rivals} others'}."
    if not beaten:
        return f"{reached}, but is not shown to be better than {'the other' if rivals == 1 else 'any other'}."
    return f"{reached}, and is shown to be better than {beaten} of the {rivals} others."
