"""From a score matrix to the cells of a heat map. The heat map is a table: its numbers can be read and copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nacre.records.run import Matrix, RunRecord
from nacre.report import numbers
from nacre.report.names import columns
from nacre.report.palette import level

CROWDED = 6
"""Tasks beyond which cells are small."""

FITS_ALWAYS = 8
"""Columns of text that fit above a cell in any window."""

FITS_WIDE = 48
"""Columns of text that fit above all cells together in a wide window."""


@dataclass(frozen=True)
class HeatCell:
    """One cell.

    Attributes:
        text: The number.
        hover: What it is the number of.
        level: Step of the color ramp; None where undefined.
        learned: Whether the task was learned by then.
        just: Whether it was learned last.
    """

    text: str
    hover: str
    level: int | None
    learned: bool
    just: bool


@dataclass(frozen=True)
class HeatRow:
    """One row.

    Attributes:
        task: The task that was just learned; None in the first row, before any.
        cells: Its scores.
    """

    task: str | None
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class HeatMap:
    """T + 1 rows of T cells.

    Attributes:
        ramp: The color ramp: `score` or `valid`.
        name: The run's name.
        tasks: Headings of the columns.
        metrics: What each column counts.
        rows: The rows.
        crowded: Whether cells are small.
        labels: How column headings stand: level, upright (on end), or turning (on end where the window is narrow).
    """

    ramp: str
    name: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    crowded: bool
    labels: Literal["level", "upright", "turning"]


def score_map(record: RunRecord, name: str) -> HeatMap:
    """Draw the score on each task after each task.

    Args:
        record: The run's.
        name: The run's.
    """
    return _heat_map(record, record.matrix, "score", name)


def valid_map(record: RunRecord, name: str) -> HeatMap | None:
    """Draw the share of answers that are answers of the task at all.

    Args:
        record: The run's.
        name: The run's.

    Returns:
        The map; None where no task has such a notion.
    """
    if all(value is None for row in record.valid_answers for value in row):
        return None
    return _heat_map(record, record.valid_answers, "valid", name)


def _heat_map(record: RunRecord, matrix: Matrix, ramp: str, name: str) -> HeatMap:
    tasks = tuple(record.tasks)
    rows = []
    for learned, (task, values) in enumerate(zip((None, *tasks), matrix, strict=True)):
        when = "before any task" if task is None else f"after {task}"
        cells = (_cell(value, index, learned, f"{when}, on {tasks[index]}") for index, value in enumerate(values))
        rows.append(HeatRow(task=task, cells=tuple(cells)))
    crowded = len(tasks) > CROWDED
    metrics = tuple(record.task_metrics) if ramp == "score" else ("valid answers",) * len(tasks)
    return HeatMap(
        ramp=ramp, name=name, tasks=tasks, metrics=metrics, rows=tuple(rows), crowded=crowded, labels=_labels(tasks)
    )


def _labels(tasks: Sequence[str]) -> Literal["level", "upright", "turning"]:
    longest = max(columns(task) for task in tasks)
    if len(tasks) <= CROWDED and longest <= FITS_ALWAYS:
        return "level"
    return "turning" if len(tasks) * longest <= FITS_WIDE else "upright"


def _cell(value: float | None, index: int, learned: int, where: str) -> HeatCell:
    return HeatCell(
        text=numbers.percent(value),
        hover=f"{where}: " + ("not defined" if value is None else f"{numbers.percent(value, decimals=2)} %"),
        level=None if value is None else level(value),
        learned=index < learned,
        just=index == learned - 1 and value is not None,
    )
