"""`nacre init`: a store, in which one model learns task after task."""

from __future__ import annotations

from typing import Annotated

import typer

from nacre.cli.new_store import GateOption, NewStoreArgument, TestRowsOption, given
from nacre.cli.screen import say, screen


def init(
    store: NewStoreArgument,
    method: Annotated[str, typer.Option(help="'nacre methods' lists them.")] = "nacre",
    model: Annotated[str, typer.Option(help="Folder, Hugging Face name, or 'demo'.")] = "demo",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    must_keep: GateOption = None,
    test_rows: TestRowsOption = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key: rank=4, optim.epochs=3. Repeatable."),
    ] = None,
) -> None:
    """Make a store: a folder in which one model learns task after task, version after version."""
    from nacre.assignments import assign, validated
    from nacre.store.settings import StoreSettings

    document = {"method": method, "model": model, "seed": seed, **given(must_keep, test_rows)}
    for each in setting or []:
        assign(document, each, StoreSettings)
    settings = validated(StoreSettings, document)
    settings.check_method_name()  # before torch is imported, which takes seconds
    from nacre.cli.display import Display
    from nacre.store.teaching import create

    display = Display()
    with display.interruptible("Nothing was made."):
        made = create(store, settings.written_out(), display)
    said = f"A store of {made.settings.model} with {made.settings.method}"
    say(screen(), f"{said}: {store}, version {made.current}.")
    say(screen(), f"Teach it with: nacre learn {store} --task NAME --data FILE")
