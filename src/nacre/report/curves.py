"""From score matrices to charts: each task's accuracy over the stream.

A chart's coordinates are percentages of its box, so that it fills any width while its text keeps its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from nacre.records.run import RunRecord
from nacre.report import numbers
from nacre.report.names import shorten

STYLES = 6
"""Colors and marker shapes that a reader can tell apart; a chart holds no more lines than that."""

MARKERS = (
    "M-4.5,0a4.5,4.5 0 1 0 9,0a4.5,4.5 0 1 0 -9,0z",
    "M-4,-4h8v8h-8z",
    "M0,-5.8L5.8,0L0,5.8L-5.8,0z",
    "M0,-5.6L5.2,3.8H-5.2z",
    "M0,5.6L5.2,-3.8H-5.2z",
    "M-5.4,0L-2.7,-4.6H2.7L5.4,0L2.7,4.6H-2.7z",
)

WIDE_HEIGHT = 300
SMALL_HEIGHT = 150
TINY_HEIGHT = 104
LABEL_GAP = 17
LABEL_WIDTH = 14
TICK_WIDTH = 12


Stroke = tuple[tuple[float, float], ...]
"""Points that a pen joins: x from the left and y from the top, in percent of the box."""


@dataclass(frozen=True)
class Point:
    """A score at a stage.

    Attributes:
        x: From the left, in percent of the box.
        y: From the top.
        hover: What it says.
        mark: "ring" where the task was just learned; "lone" where no line reaches it, so that it is not overlooked.
    """

    x: float
    y: float
    hover: str
    mark: Literal["ring", "lone", "dot"]


@dataclass(frozen=True)
class Label:
    """A line's name at its right end.

    Attributes:
        text: The name, shortened.
        full: The name.
        y: Where the line ends, in pixels from the top.
        at: Where the text stands.
    """

    text: str
    full: str
    y: float
    at: float


@dataclass(frozen=True)
class Line:
    """Scores over the stages; the pen is lifted where one is not defined.

    Attributes:
        name: What is scored.
        style: Number of its color and marker.
        faint: Strokes of the stages before it is learned.
        firm: Strokes from then on.
        points: Every score.
        band: Outline of what lies within a standard deviation; empty where there is none.
        label: Its name at the right; None in a small chart.
    """

    name: str
    style: int
    faint: tuple[Stroke, ...]
    firm: tuple[Stroke, ...]
    points: tuple[Point, ...]
    band: Stroke = ()
    label: Label | None = None


@dataclass(frozen=True)
class Tick:
    """A stage on the axis.

    Attributes:
        x: From the left, in percent of the box.
        text: Its number, or empty.
        name: What stands below it, or empty.
    """

    x: float
    text: str
    name: str


@dataclass(frozen=True)
class Chart:
    """One box.

    Attributes:
        name: What is drawn.
        description: The same numbers as a text, for readers that see no drawing.
        height: In pixels.
        lines: What is drawn.
        ticks: Along the lower edge; the left one always reaches from 0 to 100 %.
        small: Whether its name stands above it; in a wide one every line carries its own name.
    """

    name: str
    description: str
    height: int
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    small: bool

    @property
    def has_lone_marks(self) -> bool:
        """Whether a mark stands without a line."""
        return any(point.mark == "lone" for line in self.lines for point in line.points)


@dataclass(frozen=True)
class Curves:
    """The charts that belong together.

    Attributes:
        name: What they have in common; empty where nothing need be said.
        charts: The charts.
        legend: Style and name of each line, where lines carry no labels.
    """

    name: str
    charts: tuple[Chart, ...]
    legend: tuple[tuple[int, str], ...] = ()


def curves_of(records: Sequence[RunRecord], names: Sequence[str]) -> list[Curves]:
    """Share out the lines among boxes, so that no box holds more than can be told apart.

    Few runs over the same tasks: a box a task, a line a run. Otherwise each run by itself: all tasks in one wide
    box if they are few, a small box each if they are many.

    Args:
        records: The runs'.
        names: Theirs.
    """
    same_tasks = len({tuple(record.tasks) for record in records}) == 1
    if 1 < len(records) <= STYLES and same_tasks:
        return [_by_task(records, names)]
    return [_by_run(record, name) for record, name in zip(records, names, strict=True)]


def average_curves(groups: Sequence[Sequence[RunRecord]], names: Sequence[str]) -> Curves:
    """Draw the average accuracy on the tasks learned so far, after each task: the mean over each group's runs.

    The band is a standard deviation wide to either side, where a group has several runs. There is one box while its
    lines can be told apart, else a box a group.

    Args:
        groups: Each group's records, over as many tasks; where the tasks' order differs, stages have numbers only.
        names: The groups'.
    """
    first = groups[0][0]
    same_order = len({tuple(record.tasks) for group in groups for record in group}) == 1
    few = len(groups) <= STYLES
    lines = []
    for style, (group, name) in enumerate(zip(groups, names, strict=True)):
        by_run = [_learned_so_far(record) for record in group]
        stages = [[run[stage] for run in by_run] for stage in range(len(first.tasks) + 1)]
        line = _drawn([_mean(values) for values in stages], first, 1, name, style if few else 0)
        lines.append(replace(line, band=_band(stages, first)))
    if few:
        title = "Average accuracy on the tasks learned so far"
        return Curves("", (_wide_chart(title, lines, first, named=same_order),))
    return Curves("", tuple(_small_chart(first, line.name, [line], (0, len(first.tasks))) for line in lines))


def _learned_so_far(record: RunRecord) -> list[float | None]:
    """(1/i) sum over j <= i of R[i][j] for each stage i; None where an entry is not defined."""
    return [None, *(_mean(record.matrix[stage][:stage]) for stage in range(1, len(record.tasks) + 1))]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _band(stages: Sequence[Sequence[float | None]], record: RunRecord) -> Stroke:
    """There along the upper edge and back along the lower one; nothing for one run or where a run has a gap."""
    upper, lower = [], []
    for stage, values in enumerate(stages):
        known = [value for value in values if value is not None]
        if len(known) < len(values) or len(known) < 2:
            continue
        mean, deviation = fmean(known), stdev(known)
        upper.append((_x(stage, record), _y(mean + deviation)))
        lower.append((_x(stage, record), _y(mean - deviation)))
    return (*upper, *reversed(lower)) if len(upper) > 1 else ()


def _by_task(records: Sequence[RunRecord], names: Sequence[str]) -> Curves:
    charts = []
    for index in range(len(records[0].tasks)):
        runs = enumerate(zip(records, names, strict=True))
        lines = [_line(record, index, name, style) for style, (record, name) in runs]
        charts.append(_small(records[0], index, lines))
    return Curves(name="", charts=tuple(charts), legend=tuple(enumerate(names)))


def _by_run(record: RunRecord, name: str) -> Curves:
    if len(record.tasks) <= STYLES:
        return Curves(name=name, charts=(_wide(record),))
    charts = [_small(record, index, [_line(record, index, task, 0)]) for index, task in enumerate(record.tasks)]
    return Curves(name=name, charts=tuple(charts))


def _wide(record: RunRecord) -> Chart:
    lines = [_line(record, index, task, index) for index, task in enumerate(record.tasks)]
    return _wide_chart("Accuracy on each task over the stream", lines, record)


def _wide_chart(name: str, lines: Sequence[Line], record: RunRecord, *, named: bool = True) -> Chart:
    return Chart(
        name=name,
        description=_description(lines),
        height=WIDE_HEIGHT,
        lines=tuple(_labelled(lines)),
        ticks=tuple(
            Tick(
                x=_x(stage, record),
                text=str(stage) if stage else "before",
                name=shorten(task, TICK_WIDTH) if named else "",
            )
            for stage, task in enumerate(("", *record.tasks))
        ),
        small=False,
    )


def _small(record: RunRecord, index: int, lines: Sequence[Line]) -> Chart:
    last = len(record.tasks)
    stages = range(last + 1) if last <= STYLES else sorted({0, index + 1, last})
    return _small_chart(record, record.tasks[index], lines, stages)


def _small_chart(record: RunRecord, name: str, lines: Sequence[Line], stages: Iterable[int]) -> Chart:
    return Chart(
        name=name,
        description=_description(lines),
        height=SMALL_HEIGHT if len(record.tasks) <= STYLES else TINY_HEIGHT,
        lines=tuple(lines),
        ticks=tuple(_small_tick(stage, record) for stage in stages),
        small=True,
    )


def _small_tick(stage: int, record: RunRecord) -> Tick:
    x = _x(stage, record)
    # Between the ends there is room for a number only where it does not run into theirs.
    near = stage != len(record.tasks) and not 16 <= x <= 91
    return Tick(x=x, text="before" if stage == 0 else "" if near else str(stage), name="")


def _line(record: RunRecord, index: int, name: str, style: int) -> Line:
    return _drawn([row[index] for row in record.matrix], record, index + 1, name, style)


def _drawn(scores: list[float | None], record: RunRecord, learned: int, name: str, style: int) -> Line:
    """The line of one score a stage; learned: the stage at which it becomes firm."""
    stages = ("before any task", *(f"after {task}" for task in record.tasks))
    points = tuple(
        Point(
            x=_x(stage, record),
            y=_y(score),
            hover=f"{name}, {stages[stage]}: {numbers.percent(score)} %",
            mark=_mark(scores, stage, learned),
        )
        for stage, score in enumerate(scores)
        if score is not None
    )
    heights = [None if score is None else _y(score) for score in scores]
    return Line(
        name=name,
        style=style,
        faint=_strokes(heights, record, 0, learned),
        firm=_strokes(heights, record, learned, len(record.tasks)),
        points=points,
    )


def _mark(scores: list[float | None], stage: int, learned: int) -> Literal["ring", "lone", "dot"]:
    if stage == learned:
        return "ring"
    neighbors = scores[max(0, stage - 1) : stage] + scores[stage + 1 : stage + 2]
    return "dot" if any(neighbor is not None for neighbor in neighbors) else "lone"


def _strokes(heights: Sequence[float | None], record: RunRecord, first: int, last: int) -> tuple[Stroke, ...]:
    """Through the stages first to last; a stage without a score lifts the pen."""
    strokes: list[list[tuple[float, float]]] = [[]]
    for stage in range(first, last + 1):
        height = heights[stage]
        if height is None:
            strokes.append([])
        else:
            strokes[-1].append((_x(stage, record), height))
    return tuple(tuple(stroke) for stroke in strokes if stroke)


def _labelled(lines: Sequence[Line]) -> list[Line]:
    """The lines with their names at their right ends, pushed apart where they would lie on each other."""
    ends = [(line.points[-1].y * WIDE_HEIGHT / 100, order) for order, line in enumerate(lines) if line.points]
    placed: dict[int, Label] = {}
    lowest = -float("inf")
    for end, order in sorted(ends):
        lowest = max(end, lowest + LABEL_GAP)
        name = lines[order].name
        placed[order] = Label(text=shorten(name, LABEL_WIDTH), full=name, y=round(end, 1), at=lowest)
    overflow = max(0.0, lowest - WIDE_HEIGHT) if placed else 0.0
    # Labels pushed below the axis move up again together with those they lean on.
    ceiling = float("inf")
    for _, order in sorted(ends, reverse=True):
        label = placed[order]
        at = min(label.at, ceiling, WIDE_HEIGHT) if overflow else label.at
        ceiling = at - LABEL_GAP
        placed[order] = Label(text=label.text, full=label.full, y=label.y, at=round(at, 1))
    return [replace(line, label=placed.get(order)) for order, line in enumerate(lines)]


def _description(lines: Sequence[Line]) -> str:
    if not any(line.points for line in lines):
        return "No score is defined."
    return ". ".join("; ".join(point.hover for point in line.points) for line in lines if line.points) + "."


def _x(stage: int, record: RunRecord) -> float:
    return round(100 * stage / len(record.tasks), 2)


def _y(score: float) -> float:
    return round(100 - 100 * min(max(score, 0.0), 1.0), 2)
