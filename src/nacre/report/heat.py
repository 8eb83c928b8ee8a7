"""From a matrix of shares to the cells of a heat map. The heat map is a table: its numbers can be read and copied."""

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
        learned: Whether it is of a task that was learned by then: it is bold.
        just: Whether it is outlined: the task was learned last, or is the row's own.
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
        name: The task's; "before" of a row before any.
        after: Whether it is of what came after the task.
        hover: What its heading says; empty where nothing need be said.
        cells: Its cells.
    """

    name: str
    after: bool
    hover: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class HeatMap:
    """Rows of cells, a column for each task.

    Attributes:
        ramp: The color ramp: `score` or `valid`.
        what: What the cells hold.
        caption: The same with its unit.
        name: The run's name.
        tasks: Headings of the columns.
        metrics: What each column counts.
        rows: The rows.
        crowded: Whether cells are small.
        labels: How column headings stand: level, upright (on end), or turning (on end where the window is narrow).
    """

    ramp: str
    what: str
    caption: str
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
        hover = "" if task is None else when
        rows.append(HeatRow(name=task or "before", after=task is not None, hover=hover, cells=tuple(cells)))
    metrics = tuple(record.task_metrics) if ramp == "score" else ("valid answers",) * len(tasks)
    what = "Accuracy" if ramp == "score" else "Valid answers"
    caption = f"{'Scores' if len(set(metrics)) > 1 else what} in percent"
    return heat_map(ramp, what, caption, name, tasks, metrics, rows)


def heat_map(
    ramp: str,
    what: str,
    caption: str,
    name: str,
    tasks: Sequence[str],
    metrics: Sequence[str],
    rows: Sequence[HeatRow],
) -> HeatMap:
    """A heat map, whose cells and headings are as wide as its columns let them be.

    Args:
        ramp: See `HeatMap`.
        what: Likewise.
        caption: Likewise.
        name: Likewise.
        tasks: Likewise.
        metrics: Likewise.
        rows: Likewise.
    """
    crowded = len(tasks) > CROWDED
    return HeatMap(ramp, what, caption, name, tuple(tasks), tuple(metrics), tuple(rows), crowded, _labels(tasks))


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
