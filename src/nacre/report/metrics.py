"""Metrics as a page shows them: values as text, and definitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.evaluation.matrix import RUN_METRICS, RunMetric
from nacre.records.probe import ProbeMetric
from nacre.records.run import RunRecord
from nacre.report import numbers

MEANINGS = {metric.key: metric.meaning for metric in RUN_METRICS}
"""What each metric of a run says, in plain language."""


@dataclass(frozen=True)
class Definition:
    """What a metric means: first in plain language, then as the records define it.

    Attributes:
        key: The metric's.
        title: The metric's.
        meaning: In plain language; empty where the definition is.
        texts: The definition; several where the records disagree.
    """

    key: str
    title: str
    meaning: str
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
            name = titles.get(key, key.replace("_", " ").capitalize())
            defined.append(Definition(key, name, MEANINGS.get(key, ""), tuple(texts)))
    return defined
