"""What a learner decided: which task each row was taken for, how sure answers were, where the tasks' labels lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nacre.records.decisions import BINS, Decisions, ProbabilityBin, Reliability
from nacre.report import numbers
from nacre.report.curves import Chart, Line, Point, Tick
from nacre.report.extra_tables import ExtraTable
from nacre.report.heat import HeatCell, HeatMap, HeatRow, heat_map
from nacre.report.names import columns
from nacre.report.palette import level
from nacre.report.task_map import MapDrawing, map_drawing

HEIGHT = 260

FEW = 0.05
"""A mark of less than this share of the rows is hollow."""

NONE = "none"
"""Heading of the rows that were taken for no task."""

WHO = {
    "readout": "A row was taken for the task that the method’s readout finds most likely.",
    "routing": "A row was taken for the task whose slot answers it, or has most weight in its answer.",
}


@dataclass(frozen=True)
class DecisionSection:
    """What a page shows of a run's decisions.

    Attributes:
        outcome: Whose rows were found, in a sentence.
        who: Who decided, in a sentence.
        confusion: Of each task, the shares of its rows that were taken for each.
        longest: The width of the longest task's name, in columns of text.
        kinds: How many rows of each task were of which kind; None where nobody asked.
        sureness: How well probabilities fit, in sentences; empty where there are none.
        reliability: The same as a chart.
        bins: The same as a table.
        map: Where labels lie; None where nobody knows.
        shown: What the map shows, in a sentence.
    """

    outcome: str
    who: str
    confusion: HeatMap
    longest: int
    kinds: ExtraTable | None
    sureness: str
    reliability: Chart | None
    bins: ExtraTable | None
    map: MapDrawing | None
    shown: str


def decision_section(found: Decisions, name: str) -> DecisionSection:
    """Draw what was decided.

    Args:
        found: By a run's learner.
        name: The run's.
    """
    sure, drawn = found.calibration, found.map
    has_bins = sure is not None and sure.rows > 0
    return DecisionSection(
        outcome=_outcome(found),
        who=f"{WHO[found.by]} One taken for none is answered by the bare model.",
        confusion=_confusion(found, name),
        longest=max(columns(task) for task in found.taken_for),
        kinds=_kinds(found),
        sureness=_sureness(sure) if sure is not None else "",
        reliability=_reliability(sure) if sure is not None and has_bins else None,
        bins=_bins(sure) if sure is not None and has_bins else None,
        map=None if drawn is None else map_drawing(drawn, found.taken_for),
        shown="" if drawn is None else f"The two axes show {numbers.percent(drawn.shown)} % of how the labels spread.",
    )


def _outcome(found: Decisions) -> str:
    rows = sum(found.rows)
    said = f"Of {numbers.counted(rows, 'test row')}, {numbers.percent(found.right)} % were taken for their own task"
    wrong = [
        (count, task, other)
        for task, row in zip(found.tasks, found.counts, strict=True)
        for other, count in zip((*found.taken_for, NONE), row, strict=True)
        if other != task and count
    ]
    if not wrong:
        return f"{said}."
    count, task, other = max(wrong, key=lambda one: one[0])
    whom = "for none" if other == NONE else f"for ‘{other}’"
    return f"{said}. Most often mistaken: {numbers.counted(count, 'row')} of ‘{task}’, taken {whom}."


def _confusion(found: Decisions, name: str) -> HeatMap:
    headings = (*found.taken_for, NONE)
    rows = []
    for task, counts in zip(found.tasks, found.counts, strict=True):
        total = sum(counts)
        cells = tuple(
            HeatCell(
                text=numbers.percent(count / total) if count else "0",
                hover=f"{task}, taken for {heading}: {count:,} of {numbers.counted(total, 'row')}",
                level=level(count / total),
                learned=heading == task,
                just=heading == task,
            )
            for heading, count in zip(headings, counts, strict=True)
        )
        rows.append(HeatRow(name=task, after=False, hover=task, cells=cells))
    said = "Rows by the task that they were taken for"
    metrics = (*("rows taken for it",) * len(found.taken_for), "rows taken for no task")
    return heat_map("score", said, f"{said}, in percent", name, headings, metrics, rows)


def _kinds(found: Decisions) -> ExtraTable | None:
    if found.kinds is None:
        return None
    return ExtraTable(
        title="Kinds of rows",
        note="Known: asked as the task was learned. Reworded: asked in other words. Foreign: of no task that was "
        "learned, and left to the bare model.",
        first="Test rows of",
        head=("Known", "Reworded", "Foreign"),
        rows=tuple(
            (task, tuple(_part(count, own.rows) for count in (own.known, own.reworded, own.foreign)))
            for task, own in zip(found.tasks, found.kinds, strict=True)
        ),
    )


def _part(count: int, rows: int) -> str:
    return f"{count:,} ({numbers.percent(count / rows)} %)"


def _sureness(sure: Reliability) -> str:
    without = f"{numbers.counted(sure.left_out, 'row')} had an answer without a probability." if sure.left_out else ""
    if sure.expected_error is None:
        return without
    said = (
        f"Probabilities miss the share of right answers by {numbers.percent(sure.expected_error)} points on average "
        f"over {numbers.counted(sure.rows, 'row')} (expected calibration error, {BINS} bins)."
    )
    tilt = math.fsum(own.rows * ((own.probability or 0.0) - (own.right or 0.0)) for own in sure.bins) / sure.rows
    by = numbers.percent(abs(tilt))
    whole = (
        "neither too sure nor too unsure" if by == "0.0" else f"too {'sure' if tilt > 0 else 'unsure'} by {by} points"
    )
    return f"{said} On the whole answers are {whole}. {without}".rstrip()


def _filled(sure: Reliability) -> list[tuple[str, float, float, int]]:
    """Of each bin with rows its name, their mean probability, the share that is right, and their number."""
    return [
        (f"{100 * number // BINS} to {100 * (number + 1) // BINS} %", *_means(own), own.rows)
        for number, own in enumerate(sure.bins)
        if own.rows
    ]


def _means(own: ProbabilityBin) -> tuple[float, float]:
    return own.probability or 0.0, own.right or 0.0


def _reliability(sure: Reliability) -> Chart:
    bins = _filled(sure)
    said = [
        f"{where}: {numbers.counted(rows, 'row')}, given {numbers.percent(given)} %, right {numbers.percent(right)} %"
        for where, given, right, rows in bins
    ]
    places = tuple((round(100 * given, 2), round(100 - 100 * right, 2)) for _, given, right, _ in bins)
    points = tuple(
        Point(*place, hover=text, mark="ring" if rows < FEW * sure.rows else "lone")
        for place, text, (*_, rows) in zip(places, said, bins, strict=True)
    )
    return Chart(
        name="Share right, by probability",
        description=". ".join(said) + ".",
        height=HEIGHT,
        lines=(
            Line("as sure as right", 5, (((0.0, 100.0), (100.0, 0.0)),), (), ()),
            Line("answers", 0, tuple(((x, 100.0 - x), (x, y)) for x, y in places), (), points),
        ),
        ticks=tuple(Tick(float(percent), str(percent), "") for percent in range(0, 101, 20)),
        levels=tuple((100.0 - percent, str(percent)) for percent in range(0, 101, 20)),
        small=True,
    )


def _bins(sure: Reliability) -> ExtraTable:
    return ExtraTable(
        title="Answers by their probability",
        note="",
        first="Probability",
        head=("Rows", "Mean", "Right"),
        rows=tuple(
            (where, (f"{rows:,}", f"{numbers.percent(given)} %", f"{numbers.percent(right)} %"))
            for where, given, right, rows in _filled(sure)
        ),
    )
