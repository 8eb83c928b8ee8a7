"""`nacre demo`: forgetting, and what a method does against it, in two minutes without network or data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nacre.console import print_json


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the four runs and the page.")] = Path("nacre-demo"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the four records; progress goes to standard error.")
    ] = False,
) -> None:
    """Teach the embedded model four small tasks with four methods, and show what each of them forgot."""
    import json

    from nacre.cli.display import Display
    from nacre.cli.records import print_records

    display = Display(error=as_json)
    from nacre.runs.demo import run_demo

    with display.interruptible("The same command continues where it stopped."):
        records, page = run_demo(output, display)
    if as_json:
        print_json(json.dumps([json.loads(record.as_json()) for record in records]))
    else:
        print_records(records, page)
