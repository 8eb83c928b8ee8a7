"""The metrics of a record in the order of the page, with the direction in which they are better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.records.run import Record
from nacre.report import numbers


@dataclass(frozen=True)
class Metric:
    """One metric: ``field`` names it in the record and in the record's definitions."""

    field: str
    title: str
    unit: str
    better: str

    def value(self, record: Record) -> float | None:
        value: float | None = getattr(record, self.field)
        return value

    def text(self, record: Record) -> str:
        """The value in percent, or in points with a sign where it is a difference that may go either way."""
        signed = self.field.endswith("_transfer")
        return numbers.points(self.value(record)) if signed else numbers.percent(self.value(record))


METRICS = (
    Metric("average_accuracy", "Average accuracy", "%", "higher"),
    Metric("learning_accuracy", "Learning accuracy", "%", "higher"),
    Metric("pooled_accuracy", "Pooled accuracy", "%", "higher"),
    Metric("forgetting", "Forgetting", "points", "lower"),
    Metric("backward_transfer", "Backward transfer", "points", "higher"),
    Metric("forward_transfer", "Forward transfer", "points", "higher"),
)


@dataclass(frozen=True)
class Definition:
    """What a metric means in the records' own words; more than one text where the records disagree."""

    field: str
    title: str
    texts: tuple[str, ...]


def definitions(records: Sequence[Record]) -> list[Definition]:
    """The definitions of this page's metrics in their order, then whatever else the records define."""
    titles = {metric.field: metric.title for metric in METRICS}
    others = sorted({name for record in records for name in record.definitions} - set(titles))
    found = []
    for field in (*titles, *others):
        texts = dict.fromkeys(record.definitions[field] for record in records if field in record.definitions)
        if texts:
            found.append(Definition(field, titles.get(field, field.replace("_", " ").capitalize()), tuple(texts)))
    return found
