"""`nacre import`: a store of what a run has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nacre.cli.screen import say, screen


def import_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    store: Annotated[str, typer.Argument(metavar="STORE", help="A new folder.")],
    must_keep: Annotated[
        str | None, typer.Option(metavar="GATE", help="What every new version must keep: 'agnews:-2pt, *:-3pt'.")
    ] = None,
    test_rows: Annotated[
        str | None,
        typer.Option(help="Of learned tasks: keep copies them, reference reads them again, hash keeps neither."),
    ] = None,
) -> None:
    """Make a store of a finished run: its learner after the last task, its settings, and its tasks' test rows."""
    from nacre.assignments import validated
    from nacre.cli.display import Display
    from nacre.learning.learner_settings import LearnerSettings
    from nacre.runs.finished import read_finished
    from nacre.store.gate import MustKeep
    from nacre.store.settings import StoreSettings
    from nacre.store.source import Source
    from nacre.store.teaching import adopt
    from nacre.tasks.reading.choices import Choices

    recipe, snapshot = read_finished(run)
    shared = {field.alias or key for key, field in LearnerSettings.model_fields.items()}
    document = {key: value for key, value in recipe.document().items() if key in shared}
    document |= {key: value for key, value in (("must_keep", must_keep), ("test_rows", test_rows)) if value is not None}
    settings = validated(StoreSettings, document)
    if settings.must_keep is not None:
        MustKeep.of(settings.must_keep)
    choices = Choices(0, recipe.skip_bad_rows, recipe.fold_labels)
    taught = [
        (Source(task.name, recipe.data, choices, recipe.limit_train, recipe.limit_test), task)
        for task in recipe.tasks()
    ]
    display = Display()
    with display.interruptible("Nothing was made."):
        made = adopt(store, settings.written_out(), snapshot, taught, display)
    say(screen(), f"A store of {run}: {store}, version {made.current}, which has learned {', '.join(snapshot.tasks)}.")
