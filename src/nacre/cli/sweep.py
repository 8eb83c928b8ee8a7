"""`nacre sweep`: the runs of a grid, each carried out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nacre.cli.screen import WARNING, WORST, Grid, percent, say, screen
from nacre.cli.sweeping import EngineName, Jobs, SweepFolder
from nacre.console import print_json
from nacre.launcher import launched

if TYPE_CHECKING:
    from nacre.sweeps.sweep import RunEnded, RunStatus, Sweep


def sweep(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="A grid in YAML, or the folder of a sweep.")],
    output: SweepFolder = None,
    engine: EngineName = "local",
    jobs: Jobs = None,
    status: Annotated[bool, typer.Option("--status", help="Say how each run stands, and begin none.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print how each run stands as JSON; progress goes to standard error.")
    ] = False,
) -> None:
    """Carry out every run of a grid that is not finished, and say how each one stands.

    Exits with 1 if one of them failed. The same command goes on after a crash, and tries again what failed.
    """
    if launched()[0] > 0:  # the first process has the runs carried out
        return
    opened = sweep_in(grid, output)
    found = opened.status() if status else carry_out(opened, engine, jobs)
    _conclude(opened, found, as_json)


def sweep_in(grid: Path, output: str | None) -> Sweep:
    """The sweep of a grid's file, or of a folder.

    Raises:
        RecipeError: If it cannot be.
    """
    from nacre.sweeps.grid import read_grid
    from nacre.sweeps.sweep import Sweep

    return Sweep(_place(grid, output), read_grid(grid / "grid.yaml" if grid.is_dir() else grid))


def carry_out(opened: Sweep, engine: str, jobs: int | None) -> list[RunStatus]:
    """Carry out what is not finished, and say what has ended.

    Args:
        opened: The sweep.
        engine: The engine's name.
        jobs: Runs at a time; None: one, or as many as a launcher has started processes.

    Returns:
        How each run stands.
    """
    from nacre.sweeps.engines.choice import engine_of

    jobs = jobs or launched()[1]
    threads = opened.grid.resources.threads or opened.usual_threads(jobs)
    console = screen(error=True)

    def tell(ended: RunEnded) -> None:
        said = f"{ended.done} of {ended.of}: {ended.name}"
        say(console, f"{said} failed: {ended.reason}" if ended.reason else said, WARNING if ended.reason else "")

    runner = engine_of(
        engine, jobs=jobs, threads=threads, folder=opened.path / "jobs", slurm=opened.grid.resources.slurm
    )
    try:
        return opened.carry_out(runner, threads, tell)
    except KeyboardInterrupt:
        say(console, "Interrupted. The same command goes on from what is saved.")
        raise typer.Exit(130) from None
    finally:
        runner.close()


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
