"""The option that saves a task's training while it goes on."""

from __future__ import annotations

from typing import Annotated

import typer

SaveEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="STEPS",
        help="Save the training inside a task every so many steps; without it, only on Ctrl-C.",
    ),
]
