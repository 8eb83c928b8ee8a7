"""`nacre learn` and `nacre forget`: the next version of a store, and whether it may answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nacre.cli.saving import SaveEvery
from nacre.cli.screen import BEST, WARNING, WORST, say, screen
from nacre.console import print_json

if TYPE_CHECKING:
    from nacre.store.settings import TestRows
    from nacre.store.store import Store
    from nacre.store.teaching import NewVersion

MustKeepOption = Annotated[
    str | None,
    typer.Option(metavar="GATE", help="What must be kept, instead of what the store says: 'agnews:-2pt, *:-3pt'."),
]
OutcomeAsJson = Annotated[
    bool, typer.Option("--json", help="Print the outcome as JSON; progress goes to standard error.")
]


def learn(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    task: Annotated[str, typer.Option(help="The task's name.")],
    data: Annotated[
        str | None, typer.Option(help="Its file or folder, one that holds it, or hub:NAME; none for the demo's tasks.")
    ] = None,
    must_keep: MustKeepOption = None,
    test_rows: Annotated[
        str | None, typer.Option(help="Of this task, instead of what the store says: keep, reference or hash.")
    ] = None,
    limit_train: Annotated[int | None, typer.Option(min=1, help="Train on at most that many rows.")] = None,
    limit_test: Annotated[int | None, typer.Option(min=1, help="Test on at most that many rows.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read.")] = False,
    fold_labels: Annotated[
        bool, typer.Option("--fold-labels", help="Labels that differ only in case or white space are one label.")
    ] = False,
    save_every: SaveEvery = None,
    as_json: OutcomeAsJson = False,
) -> None:
    """Learn a task, measure every task, and let the new version answer if it keeps what it must.

    Exits with 1 where it does not; the version before it goes on answering then. The same command goes on after a
    crash.
    """
    from nacre.store.store import Store

    opened = Store.open(store)
    kept = _kept(test_rows)
    from nacre.cli.display import Display
    from nacre.files import full_path, user_path
    from nacre.store import teaching
    from nacre.store.source import Source
    from nacre.tasks.reading.choices import Choices
    from nacre.tasks.reading.hub import PREFIX

    place = data if data is None or data.startswith(PREFIX) else str(full_path(user_path(data)))
    source = Source(task, place, Choices(0, skip_bad_rows, fold_labels), limit_train, limit_test)
    display = Display(error=as_json)
    with display.interruptible("The current version is as it was; the same command goes on."):
        outcome = teaching.learn(opened, source, display, must_keep=must_keep, kept=kept, save_every=save_every)
    _conclude(opened, outcome, as_json)


def forget(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task to take out.")],
    must_keep: MustKeepOption = None,
    as_json: OutcomeAsJson = False,
) -> None:
    """Take a task out of the current version, where the method can do so exactly. Earlier versions still hold it."""
    from nacre.cli.display import Display
    from nacre.store import teaching
    from nacre.store.store import Store

    opened = Store.open(store)
    display = Display(error=as_json)
    with display.interruptible("The current version is as it was."):
        outcome = teaching.forget(opened, task, display, must_keep=must_keep)
    _conclude(opened, outcome, as_json)


def _kept(test_rows: str | None) -> TestRows | None:
    from nacre.errors import RecipeError
    from nacre.store.settings import TEST_ROWS

    if test_rows is None:
        return None
    found = next((each for each in TEST_ROWS if each == test_rows), None)
    if found is None:
        raise RecipeError(f"--test-rows {test_rows}: {', '.join(TEST_ROWS)} are possible.")
    return found


def _conclude(store: Store, outcome: NewVersion, as_json: bool) -> None:
    from nacre.cli.versions import scores_grid
    from nacre.files import to_json
    from nacre.report.verdict import sentence

    verdict = outcome.verdict
    if as_json:
        document = {
            "version": outcome.name,
            "before": outcome.before,
            "promoted": outcome.promoted,
            "already": outcome.already,
            "scores": {task.name: task.score.value if task.score else None for task in outcome.version.tasks},
            "verdict": None if verdict is None else verdict.model_dump(by_alias=True),
        }
        print_json(to_json(document))
    else:
        console = screen()
        scores_grid(store, outcome.version).print(console)
        if outcome.already:
            say(console, f"Version {outcome.name} was there already: nothing was learned again.")
        if verdict is not None and outcome.page is not None:
            say(console, sentence(verdict), BEST if verdict.passed else WORST)
            say(console, f"The verdict: {outcome.page}")
        if outcome.promoted:
            say(console, f"Version {outcome.name} answers now; before it was {outcome.before}.")
        else:
            say(console, f"Version {outcome.before} goes on answering.", WARNING)
    if not outcome.promoted:
        raise typer.Exit(1)
