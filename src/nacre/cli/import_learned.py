"""`nacre import`: a store of what was learned elsewhere: a run, or a LoRA that PEFT has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nacre.cli.new_store import GateOption, NewStoreArgument, TestRowsOption, given
from nacre.cli.screen import say, screen

if TYPE_CHECKING:
    from nacre.cli.display import Display
    from nacre.store.settings import StoreSettings
    from nacre.store.store import Store


def import_learned(
    learned: Annotated[
        Path, typer.Argument(metavar="LEARNED", help="The folder of a finished run, or of a PEFT LoRA.")
    ],
    store: NewStoreArgument,
    task: Annotated[str | None, typer.Option(help="Of a PEFT LoRA: the name of what it has learned.")] = None,
    data: Annotated[str | None, typer.Option(help="Of a PEFT LoRA: the task's file or folder.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Of a PEFT LoRA: its base model; the one that PEFT noted if not given.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Of a PEFT LoRA: how the store goes on, by a method whose slots are LoRAs.")
    ] = "inc_lora",
    must_keep: GateOption = None,
    test_rows: TestRowsOption = None,
) -> None:
    """Make a store of a finished run, or one whose first task is a LoRA that PEFT has trained."""
    from nacre.cli.display import Display
    from nacre.errors import RecipeError
    from nacre.interop.peft_files import CONFIG

    own = given(must_keep, test_rows)
    display = Display()
    with display.interruptible("Nothing was made."):
        if (learned / CONFIG).is_file():
            if task is None:
                raise RecipeError("--task: say what the LoRA has learned, and --data where the task's rows are.")
            made = _of_peft(learned, store, (task, data), {"method": method, **own}, model, display)
        else:
            made = _of_run(learned, store, own, display)
    tasks = made.read(made.current).names
    say(screen(), f"A store of {learned}: {store}, version {made.current}, which has learned {', '.join(tasks)}.")


def _of_run(run: Path, store: str, own: dict[str, Any], display: Display) -> Store:
    from nacre.learning.learner_settings import LearnerSettings
    from nacre.runs.finished import read_finished
    from nacre.store.source import Source
    from nacre.store.teaching import adopt
    from nacre.tasks.reading.choices import Choices

    recipe, snapshot = read_finished(run)
    shared = {field.alias or key for key, field in LearnerSettings.model_fields.items()}
    settings = _settings({**{key: value for key, value in recipe.document().items() if key in shared}, **own})
    choices = Choices(0, recipe.skip_bad_rows, recipe.fold_labels)
    taught = [
        (Source(task.name, recipe.data, choices, recipe.limit_train, recipe.limit_test), task)
        for task in recipe.tasks()
    ]
    return adopt(store, settings, snapshot, taught, display)


def _of_peft(
    folder: Path, store: str, task: tuple[str, str | None], own: dict[str, Any], model: str | None, display: Display
) -> Store:
    from nacre.errors import RecipeError
    from nacre.files import full_path, user_path
    from nacre.interop.peft_files import read_peft
    from nacre.store.source import Source
    from nacre.store.teaching import adopt_peft

    lora = read_peft(folder)
    if not (base := model or lora.base):
        raise RecipeError(f"--model: '{folder}' does not say which model it was trained on.")
    parameters = {"rank": lora.rank, "alpha": lora.alpha, "modules": list(lora.modules)}
    settings = _settings({**own, "model": base, "set": parameters})
    name, data = task
    source = Source(name, None if data is None else str(full_path(user_path(data))))
    return adopt_peft(store, settings, lora, source, display)


def _settings(document: dict[str, Any]) -> StoreSettings:
    from nacre.assignments import validated
    from nacre.store.settings import StoreSettings

    return validated(StoreSettings, document).written_out()
