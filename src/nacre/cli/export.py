"""`nacre export`: a version of a store in the files of other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from nacre.cli.screen import say, screen


def export(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    output: Annotated[str, typer.Option(metavar="DIR", help="A new folder.")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="merged: a plain model folder; peft: stock LoRAs; package: for nacre.load_model; gguf: for llama.cpp.",
        ),
    ] = "merged",
    version: Annotated[str, typer.Option(help="The first digits of its name, or 'current'.")] = "current",
) -> None:
    """Write a version as other tools read it, load it again, and compare it with the version.

    Nothing is written that answers otherwise.
    """
    from nacre.store.exporting import export_version
    from nacre.store.store import Store

    opened = Store.open(store)
    name = opened.resolve(version)
    found = export_version(opened, name, kind, output)
    console = screen()
    say(console, f"Version {name} as {found.format}: {found.folder}")
    say(
        console,
        f"Loaded again, its logits differ by at most {found.difference:.1e} on {found.rows} rows; the largest is "
        f"{found.largest:.1f}.",
    )
