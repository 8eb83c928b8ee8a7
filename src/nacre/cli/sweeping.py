"""The options of the commands that carry out a sweep."""

from __future__ import annotations

from typing import Annotated

import typer

SweepFolder = Annotated[
    str | None, typer.Option(metavar="DIR", help="The sweep's folder; without it sweeps/ and the grid's name.")
]
EngineName = Annotated[str, typer.Option(help="local, slurm or ray.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; without it 1, or the processes of a launcher.")]
