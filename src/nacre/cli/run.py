"""`nacre run`: a stream learned by a method, in a folder that can be continued."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nacre.cli.saving import SaveEvery
from nacre.console import print_json
from nacre.launcher import asks_for_sharding, check_single_process, launched


def run(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in YAML; flags override it.")] = None,
    method: Annotated[
        str | None, typer.Option(help="'nacre methods' lists them; or a file of yours: ./mine.py:name.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="A stream ('nacre streams'), a stream file (.yaml), or task names found under --data: a,b,c."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder of the tasks, hub:NAME or hub:published.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder, Hugging Face name, or 'demo'.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    output: Annotated[str | None, typer.Option(help="The run's folder.")] = None,
    identity: Annotated[
        str | None, typer.Option(help="Lines that tell the model its task: none, task or full.")
    ] = None,
    limit_train: Annotated[int | None, typer.Option(help="Train on at most that many rows of a task.")] = None,
    limit_test: Annotated[int | None, typer.Option(help="Test on at most that many rows of a task.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read.")] = False,
    fold_labels: Annotated[
        bool, typer.Option("--fold-labels", help="Labels that differ only in case or white space are one label.")
    ] = False,
    save_every: SaveEvery = None,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="Under a launcher: each process holds a part of the model's layers.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key: rank=4, optim.batch_size=16. Repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, without loading the model or writing anything.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="A dry run that also loads the model and times a few steps and answers.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="List the trained parameters of each task.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json, or the plan; progress goes to standard error.")
    ] = False,
) -> None:
    """Teach a model the tasks of a stream, one after the other, and measure all of them after each.

    The same command on an unfinished folder continues it, on a finished one says so.
    """
    from nacre.runs.recipe import read_recipe

    names = stream.split(",") if stream is not None and "," in stream else stream
    flags = {
        "method": method,
        "stream": names,
        "data": data,
        "model": model,
        "seed": seed,
        "output": output,
        "identity": identity,
        "limit_train": limit_train,
        "limit_test": limit_test,
        "skip_bad_rows": skip_bad_rows or None,
        "fold_labels": fold_labels or None,
        "save_every": save_every,
    }
    whole = read_recipe(recipe, flags, setting or [])
    whole.check_names()  # before torch is imported, which takes seconds
    if dry_run or estimate:
        check_single_process("A dry run")
        from nacre.cli.plan import print_plan
        from nacre.runs.plan import plan_of

        plan = plan_of(whole)
        if estimate:
            from nacre.runs.timing import estimated

            plan = estimated(plan)
        if as_json:
            print_json(plan.model_dump_json(by_alias=True))
        else:
            print_plan(plan)
        return
    from nacre.cli.display import Display
    from nacre.cli.records import print_record
    from nacre.runs.run import run as carry_out

    display = Display(error=as_json, verbose=verbose)
    with display.interruptible("The same command goes on from what is saved."):
        record = carry_out(whole, display, sharded=asks_for_sharding() or sharded)
    if launched()[0] > 0:
        return
    if as_json:
        print_json(record.as_json())
    else:
        print_record(record, display.page)
