"""Tables of what only some runs have: perplexity of texts, scores on end tasks, base ability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.records.run import Record
from nacre.report import numbers


@dataclass(frozen=True)
class Further:
    """title, note: what stands above. first: name of the column that says what a row is of; head: of the others."""

    title: str
    note: str
    first: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def further_tables(record: Record) -> tuple[Further, ...]:
    """Those that the run has something for."""
    found = (_perplexity(record), _end_tasks(record), _base_ability(record))
    return tuple(table for table in found if table is not None)


def _perplexity(record: Record) -> Further | None:
    if record.perplexity is None:
        return None
    stages = ("before any task", *record.tasks)
    rows = [(stage, _texts(row)) for stage, row in zip(stages, record.perplexity, strict=True)]
    return Further(
        "Perplexity", f"{record.definitions.get('perplexity', '')}.", "After", tuple(record.tasks), tuple(rows)
    )


def _texts(perplexities: Sequence[float | None]) -> tuple[str, ...]:
    return tuple(numbers.DASH if value is None else f"{value:.4g}" for value in perplexities)


def _end_tasks(record: Record) -> Further | None:
    if record.end_tasks is None:
        return None
    rows = [
        (
            one.after,
            (
                _with_spread(one.f1, one.f1_deviation),
                _with_spread(one.macro_f1, one.macro_f1_deviation),
                _with_spread(one.accuracy, one.accuracy_deviation),
            ),
        )
        for one in record.end_tasks.averages
    ]
    note = f"{record.end_tasks.definition[:1].upper()}{record.end_tasks.definition[1:]}. In percent."
    return Further("End tasks", note, "After", ("F1", "macro-F1", "Accuracy"), tuple(rows))


def _base_ability(record: Record) -> Further | None:
    if record.base_ability is None:
        return None
    rows = [
        (
            f"{one.task}, {one.metric}",
            (
                numbers.percent(one.before.value),
                numbers.percent(one.after.value),
                numbers.points(one.change.value),
                numbers.percent(one.change.standard_error),
            ),
        )
        for one in record.base_ability.ends()
    ]
    note = (
        "What pre-training taught, measured on published benchmarks: before any task and after the last one, in "
        "percent. The change is in points, with its standard error over the same rows."
    )
    return Further("Base ability", note, "Benchmark", ("Before", "After", "Change", "Standard error"), tuple(rows))


def _with_spread(mean: float, deviation: float | None) -> str:
    text = numbers.percent(mean)
    return text if deviation is None else f"{text} ± {numbers.percent(deviation)}"
