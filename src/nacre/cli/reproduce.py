"""`nacre reproduce`: a published table, run again, beside what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nacre.cli.screen import WORST, Grid, say, screen
from nacre.cli.sweep import carry_out, sweep_in
from nacre.cli.sweeping import EngineName, Jobs, SweepFolder
from nacre.console import print_json
from nacre.errors import RecipeError
from nacre.launcher import launched


def reproduce(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID", help="A grid with what was published: recipes/PAPER/table_1.yaml.")
    ],
    output: SweepFolder = None,
    engine: EngineName = "local",
    jobs: Jobs = None,
    show: Annotated[bool, typer.Option("--show", help="Print the table as it stands, and begin no run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Carry out the runs of a published table, and print what was published and what they have come to side by side.

    The table is also written to table.md in the sweep's folder. Exits with 1 if a run failed.
    """
    from dataclasses import asdict

    from nacre.files import to_json, write_atomically
    from nacre.sweeps.published import as_markdown, cells_of, headings, row_of

    if launched()[0] > 0:  # the first process has the runs carried out
        return
    opened = sweep_in(grid, output)
    published = opened.grid.published
    if published is None:
        raise RecipeError(f"Grid '{grid}' does not say what was published; 'nacre sweep' carries it out.")
    runs = opened.status() if show else carry_out(opened, engine, jobs)
    cells = cells_of(published, opened.grid.axes, opened.found())
    if opened.path.is_dir():
        write_atomically(opened.path / "table.md", as_markdown(published, cells))
    if as_json:
        print_json(to_json([{**asdict(cell), "mean": cell.mean, "place": cell.place} for cell in cells]))
    else:
        console = screen()
        say(console, f"{published.source}; {published.by}, %.")
        rows = [row_of(published, cell) for cell in cells]
        Grid("", headings(published), rows, frozenset({0})).print(console)
        for run in runs:
            if run.reason:
                say(console, f"{run.name}: {run.reason}", WORST)
    if any(run.state == "failed" for run in runs):
        raise typer.Exit(1)
