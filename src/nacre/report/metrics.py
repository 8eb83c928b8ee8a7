"""Metrics as a page shows them: values as text, and definitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.evaluation.matrix import RUN_METRICS, RunMetric
from nacre.records.probe import ProbeMetric
from nacre.records.run import RunRecord
from nacre.report import numbers


@dataclass(frozen=True)
class Definition:
    """What a metric means in the records' own words.

    Attributes:
        key: The metric's.
        title: The metric's.
        texts: The definition; several where the records disagree.
    """

    key: str
    title: str
    texts: tuple[str, ...]


def value_text(metric: RunMetric | ProbeMetric, value: float | None) -> str:
    """The value in percent, or in points with a sign where it is a difference that may go either way."""
    return numbers.points(value) if metric.signed else numbers.percent(value)


def definitions(records: Sequence[RunRecord]) -> list[Definition]:
    """The definitions of a page's metrics in their order, then whatever else the records define."""
    titles = {metric.key: metric.title for metric in RUN_METRICS}
    others = sorted({name for record in records for name in record.definitions} - set(titles))
    defined = []
    for key in (*titles, *others):
        texts = dict.fromkeys(record.definitions[key] for record in records if key in record.definitions)
        if texts:
            defined.append(Definition(key, titles.get(key, key.replace("_", " ").capitalize()), tuple(texts)))
    return defined
