"""`nacre report`: the page of one run, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nacre.printable import one_line


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    output: Annotated[Path | None, typer.Option(help="The page; for one run its report.html.")] = None,
) -> None:
    """Write one self-contained page that shows the runs; it opens offline."""
    from nacre.errors import RecipeError
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
