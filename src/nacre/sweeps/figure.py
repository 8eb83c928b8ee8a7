"""A sweep as a figure: what was published, and what the sweep's own runs have come to."""

from __future__ import annotations

import itertools
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nacre.errors import RecipeError
from nacre.report.drawing import COLORS, empty_plots
from nacre.sweeps.published import Found, PublishedTable, TableCell, cells_of
from nacre.sweeps.run_metric import metric_of

MARKS = ("D", "s", "^", "v")
"""By who published a number."""


def figure_of(table: PublishedTable, axes: Mapping[str, Sequence[str]], runs: Sequence[Found]) -> Any:
    """The figure, as matplotlib's.

    Args:
        table: What stands where in it, and what was published.
        axes: The names of the values of everything that is varied.
        runs: The grid's finished runs.

    Raises:
        RecipeError: If no run is finished.
        NacreError: If matplotlib is not installed.
    """
    if not runs:
        raise RecipeError("No run of this sweep is finished: there is nothing to draw.")
    return _over_stages(table, axes, runs) if table.follow else _points(table, axes, cells_of(table, axes, runs))


def _points(table: PublishedTable, axes: Mapping[str, Sequence[str]], cells: Sequence[TableCell]) -> Any:
    """The table's rows side by side: a mean with its seeds for each, in a color for each column.

    Rows that are numbers stand where they are on a line.
    """
    rows, columns = axes[table.rows], _columns(table, axes)
    numbers = _numbers(rows)
    figure, (plot,) = empty_plots(1, 1, width=max(6.5, 0.9 * len(rows) + 4))
    for number, column in enumerate(columns):
        beside = (number - (len(columns) - 1) / 2) * 0.5 / len(columns)
        at = numbers or [place + beside for place in range(len(rows))]
        own = [(place, cell) for row, place in zip(rows, at, strict=True) for cell in cells if _is(cell, row, column)]
        _draw_cells(plot, own, column, color=COLORS[number % len(COLORS)], line="-" if numbers else "")
        for who, mark in zip(table.numbers, MARKS, strict=False):
            if said := [(place, cell.said[who]) for place, cell in own if who in cell.said]:
                color = COLORS[number % len(COLORS)]
                plot.plot(*zip(*said, strict=True), mark, color=color, fillstyle="none", label=_label(who, column))
    if not numbers:
        plot.set_xticks(range(len(rows)), rows, rotation=30, ha="right")
    plot.set_xlabel(table.rows)
    plot.set_ylabel(f"{metric_of(table.by).title.lower()}, %")
    _entitle(figure, table, *plot.get_legend_handles_labels())
    return figure


def _draw_cells(plot: Any, cells: Sequence[tuple[float, TableCell]], column: str, *, color: str, line: str) -> None:
    """Means with their spreads over seeds, and each seed; a pale bar where they are expected."""
    for place, cell in cells:
        plot.plot([place] * len(cell.found), cell.found, ".", color=color, alpha=0.4)
    if ranges := [(place, *cell.expected) for place, cell in cells if cell.expected is not None]:
        plot.vlines(*zip(*ranges, strict=True), color=color, alpha=0.15, linewidth=9, label=_label("expected", column))
    done = [(place, cell) for place, cell in cells if cell.found]
    spreads = [statistics.stdev(cell.found) if len(cell.found) > 1 else 0.0 for _, cell in done]
    means = [statistics.mean(cell.found) for _, cell in done]
    places = [place for place, _ in done]
    plot.errorbar(places, means, spreads, fmt=f"o{line}", color=color, capsize=3, label=_label("nacre", column))


def _over_stages(table: PublishedTable, axes: Mapping[str, Sequence[str]], runs: Sequence[Found]) -> Any:
    """A plot for each column and each of its first tasks: the task's score after each stage, a color for each row."""
    columns, follow = _columns(table, axes), table.follow or 0
    figure, plots = empty_plots(len(columns), follow, width=3.2 * follow + 1)
    for number, plot in enumerate(plots):
        column, task = columns[number // follow], number % follow
        own = [run for run in runs if not table.columns or run.names[table.columns] == column]
        for row, color in zip(axes[table.rows], itertools.cycle(COLORS), strict=False):
            curves = [_curve(run, task) for run in own if run.names[table.rows] == row]
            for curve in curves if len(curves) > 1 else ():
                plot.plot(curve.keys(), curve.values(), color=color, alpha=0.3, linewidth=0.8)
            if curves:
                means = {stage: statistics.mean(curve[stage] for curve in curves) for stage in curves[0]}
                plot.plot(means.keys(), means.values(), "o-", color=color, label=row)
        names = sorted({run.record.tasks[task] for run in own if task < len(run.record.tasks)})
        plot.set_title(f"{column} {' / '.join(names)}".strip(), fontsize="medium")
        plot.xaxis.get_major_locator().set_params(integer=True)
        plot.set_xlabel("tasks learned")
    plots[0].set_ylabel("score, %")
    _entitle(figure, table, *plots[0].get_legend_handles_labels())
    return figure


def _curve(run: Found, task: int) -> dict[int, float]:
    """A task's score in percent by how many tasks had been learned, from its own stage on."""
    scores = [row[task] if task < len(row) else None for row in run.record.matrix]
    return {stage: 100 * score for stage, score in enumerate(scores) if stage > task and score is not None}


def _columns(table: PublishedTable, axes: Mapping[str, Sequence[str]]) -> Sequence[str]:
    return axes[table.columns] if table.columns else [""]


def _is(cell: TableCell, row: str, column: str) -> bool:
    return (cell.row, cell.column) == (row, column)


def _label(who: str, column: str) -> str:
    return f"{who}, {column}" if column else who


def _entitle(figure: Any, table: PublishedTable, lines: Sequence[Any], labels: Sequence[str]) -> None:
    figure.legend(lines, labels, loc="outside right upper", fontsize="small", frameon=False)
    if table.source:
        figure.suptitle(textwrap.fill(table.source, int(11 * figure.get_figwidth()) - 15), fontsize="medium")


def _numbers(rows: Sequence[str]) -> list[float] | None:
    """The rows as numbers, if all are."""
    try:
        return [float(row) for row in rows]
    except ValueError:
        return None
