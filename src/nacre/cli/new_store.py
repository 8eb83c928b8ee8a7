"""Options of the commands that make a store: `nacre init` and `nacre import`."""

from __future__ import annotations

from typing import Annotated

import typer

NewStoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A new folder.")]
GateOption = Annotated[
    str | None, typer.Option(metavar="GATE", help="What every new version must keep: 'agnews:-2pt, *:-3pt'.")
]
TestRowsOption = Annotated[
    str | None,
    typer.Option(help="Of learned tasks: keep copies them, reference reads them again, hash keeps neither."),
]


def given(must_keep: str | None, test_rows: str | None) -> dict[str, str]:
    """The settings that were given on the command line."""
    options = {"must_keep": must_keep, "test_rows": test_rows}
    return {key: value for key, value in options.items() if value is not None}
