"""Tables of what only some runs have: perplexity of texts, and what probes found."""

from __future__ import annotations

from dataclasses import dataclass

from nacre.records.probe import ProbeTable, ProbeValue
from nacre.records.run import RunRecord
from nacre.report import numbers


@dataclass(frozen=True)
class ExtraTable:
    """A table of texts.

    Attributes:
        title: What stands above it.
        note: What the numbers are.
        first: Heading of the column that says what a row is of.
        head: Headings of the other columns.
        rows: What each row is of, and its texts.
    """

    title: str
    note: str
    first: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def extra_tables(record: RunRecord) -> tuple[ExtraTable, ...]:
    """Draw the tables for which a run has something.

    Args:
        record: The run's.
    """
    perplexity = () if record.perplexity is None else (_perplexity(record),)
    return (*perplexity, *(_of_probe(probe.table()) for probe in record.probes))


def _perplexity(record: RunRecord) -> ExtraTable:
    stages = ("before any task", *record.tasks)
    rows = zip(stages, record.perplexity or (), strict=True)
    return ExtraTable(
        title="Perplexity",
        note=f"{record.definitions.get('perplexity', '')}.",
        first="After",
        head=tuple(record.tasks),
        rows=tuple(
            (stage, tuple(numbers.DASH if value is None else f"{value:.4g}" for value in row)) for stage, row in rows
        ),
    )


def _of_probe(table: ProbeTable) -> ExtraTable:
    rows = tuple((name, tuple(_text(value) for value in values)) for name, values in table.rows)
    return ExtraTable(table.title, table.note, table.first, table.columns, rows)


def _text(value: ProbeValue) -> str:
    text = numbers.points(value.value) if value.signed else numbers.percent(value.value)
    return text if value.error is None else f"{text} ± {numbers.percent(value.error)}"
