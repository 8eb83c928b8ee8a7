"""`nacre report`: the page of one run, or of several side by side; of a sweep, its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nacre.printable import one_line


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or of one sweep.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The page, by default a run's report.html; or the figure (.png, .svg, .pdf), figure.png."),
    ] = None,
) -> None:
    """Write one self-contained page that shows the runs; it opens offline. Of a sweep, draw the figure."""
    from nacre.errors import RecipeError

    if len(runs) == 1 and (runs[0] / "grid.yaml").is_file():
        typer.echo(one_line(str(_drawn(runs[0], output))))
        return
    from nacre.records.reading import read_record
    from nacre.records.view import view_of
    from nacre.report import write_report

    views = [view_of(run, read_record(run / "results.json")) for run in runs]
    if output is None and len(runs) > 1:
        raise RecipeError("Several runs make a page of their own: name it with --output FILE.html.")
    page = output or runs[0] / "report.html"
    if page.is_dir() or not page.parent.is_dir():
        raise RecipeError(f"Output '{page}' is a folder, or lies in a folder that does not exist.")
    write_report(page, views)
    typer.echo(one_line(str(page)))


def _drawn(sweep: Path, output: Path | None) -> Path:
    """Draw a sweep's figure. Returns where it is."""
    from nacre.cli.sweep import sweep_in
    from nacre.errors import RecipeError
    from nacre.report.drawing import check_picture, write_picture
    from nacre.sweeps.figure import figure_of

    target = output or sweep / "figure.png"
    check_picture(target)
    opened = sweep_in(sweep, None)
    found = opened.found()
    if not found and (reasons := [run.reason for run in opened.status() if run.reason]):
        raise RecipeError(f"No run of sweep '{sweep}' counts as finished. The first: {reasons[0]}")
    write_picture(figure_of(opened.grid.shown, opened.grid.axes, found), target)
    return target
