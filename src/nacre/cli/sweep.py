"""`nacre sweep`: the runs of a grid, each carried out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nacre.cli.screen import WARNING, WORST, Grid, percent, say, screen
from nacre.console import print_json
from nacre.launcher import launched

if TYPE_CHECKING:
    from nacre.sweeps.sweep import RunEnded, RunStatus, Sweep


def sweep(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="A grid in YAML, or the folder of a sweep.")],
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="The sweep's folder; without it sweeps/ and the grid's name.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, slurm or ray.")] = "local",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; without it 1, or the processes of a launcher.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Say how each run stands, and begin none.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print how each run stands as JSON; progress goes to standard error.")
    ] = False,
) -> None:
    """Carry out every run of a grid that is not finished, and say how each one stands.

    Exits with 1 if one of them failed. The same command goes on after a crash, and tries again what failed.
    """
    from nacre.sweeps.engines.choice import engine_of
    from nacre.sweeps.grid import read_grid
    from nacre.sweeps.sweep import Sweep

    number, launched_jobs = launched()
    if number > 0:  # the first one has the runs carried out
        return
    jobs = jobs or launched_jobs
    opened = Sweep(_place(grid, output), read_grid(grid / "grid.yaml" if grid.is_dir() else grid))
    if status:
        _conclude(opened, opened.status(), as_json)
        return
    threads = opened.grid.resources.threads or opened.usual_threads(jobs)
    console = screen(error=True)

    def tell(ended: RunEnded) -> None:
        said = f"{ended.done} of {ended.of}: {ended.name}"
        say(console, f"{said} failed: {ended.reason}" if ended.reason else said, WARNING if ended.reason else "")

    runner = engine_of(
        engine, jobs=jobs, threads=threads, folder=opened.path / "jobs", slurm=opened.grid.resources.slurm
    )
    try:
        found = opened.carry_out(runner, threads, tell)
    except KeyboardInterrupt:
        say(console, "Interrupted. The same command goes on from what is saved.")
        raise typer.Exit(130) from None
    finally:
        runner.close()
    _conclude(opened, found, as_json)


def _place(grid: Path, output: str | None) -> Path:
    from nacre.files import full_path, user_path

    if output is not None:
        return full_path(user_path(output))
    return full_path(grid if grid.is_dir() else Path("sweeps") / grid.stem)


def _written(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in chosen.items())


def _conclude(opened: Sweep, found: Sequence[RunStatus], as_json: bool) -> None:
    from dataclasses import asdict

    from nacre.files import to_json

    failed = [run for run in found if run.state in ("failed", "waiting") and run.reason]
    if as_json:
        print_json(to_json([asdict(run) for run in found]))
    else:
        console = screen()
        rows = [[run.name, run.state, percent(run.value), _written(run.chosen)] for run in found]
        Grid("", ("run", "state", f"{opened.metric}, %", "chosen"), rows, frozenset({1, 3})).print(console)
        for run in failed:
            say(console, f"{run.name}: {run.reason}", WORST)
    if any(run.state == "failed" for run in found):
        raise typer.Exit(1)
