"""The curves of a comparison as SVG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nacre.files import numbered_name, write_atomically
from nacre.records.comparison import Comparison
from nacre.records.run import RunRecord
from nacre.report import environment
from nacre.report.comparison import mean_matrix
from nacre.report.curves import MARKERS, Chart, Curves, average_curves, curves_of

COLORS = ("#0069a8", "#c24a00", "#007a5a", "#94418f", "#806000", "#4b5459")
"""Of the lines, as on the pages in light windows: programs that read SVG files know no variables of style sheets."""

PANELS = 3
"""Small charts beside each other."""

WIDE, SMALL = 640, 250
"""Widths of the boxes."""

LEFT, TOP, BELOW, LABELS, GAP = 52, 34, 46, 140, 26
"""Room around a box, in pixels: for the axis, the name, the stages, the lines' names; and between two."""


def write_figures(folder: Path, comparison: Comparison, records: Mapping[str, RunRecord]) -> list[Path]:
    """Write a comparison's curves: the average over the stream, and of each group the score on every task.

    Args:
        folder: Where to; it is made if it is not there.
        comparison: What was found.
        records: Of the runs that were compared, under the names they have in the groups.

    Returns:
        The files.
    """
    by_group = [[records[run] for run in group.runs] for group in comparison.groups]
    names = [group.name for group in comparison.groups]
    drawn = {"average": average_curves(by_group, names)}
    for number, (name, members) in enumerate(zip(names, by_group, strict=True), start=1):
        for order in comparison.orders:
            own = [record for record in members if record.protocol_hash == order.protocol_hash]
            mean = own[0].model_copy(update={"matrix": mean_matrix(own)})
            (curves,) = curves_of([mean], [name])
            whose = name if len(comparison.orders) == 1 else f"{name}-{order.name}"
            drawn[f"tasks-{numbered_name(number, whose)}"] = curves
    folder.mkdir(exist_ok=True)
    files = []
    for name, curves in drawn.items():
        files.append(folder / f"{name}.svg")
        write_atomically(files[-1], render_figure(curves))
    return files


def render_figure(curves: Curves) -> str:
    """Draw charts as one SVG image.

    Args:
        curves: The charts.

    Returns:
        SVG text that needs nothing from outside.
    """
    placed, width, height = _placed(curves.charts)
    figure: dict[str, Any] = {"width": width, "height": height, "charts": placed, "left": LEFT}
    return environment().get_template("figure.svg.j2").render(figure=figure, colors=COLORS, markers=MARKERS)


def _placed(charts: Sequence[Chart]) -> tuple[list[dict[str, Any]], int, int]:
    """Each chart with the place of its box, and the size of the image."""
    box = SMALL if charts[0].small else WIDE
    across = min(PANELS, len(charts)) if charts[0].small else 1
    column, row = LEFT + box + GAP, TOP + charts[0].height + BELOW
    placed = [
        {"chart": chart, "x": LEFT + number % across * column, "y": TOP + number // across * row, "width": box}
        for number, chart in enumerate(charts)
    ]
    right = 0 if charts[0].small else LABELS - GAP
    return placed, across * column + right, -(-len(charts) // across) * row
