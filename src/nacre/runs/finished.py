"""A finished run as something to go on from: its recipe, and its learner after the last task."""

from __future__ import annotations

from pathlib import Path

from nacre.errors import RecipeError
from nacre.learning import checkpoint
from nacre.learning.snapshot import Snapshot
from nacre.records.reading import read_record
from nacre.runs.directory import RunDirectory
from nacre.runs.recipe import Recipe, read_recipe


def read_finished(path: Path) -> tuple[Recipe, Snapshot]:
    """Read a finished run.

    Args:
        path: Its folder.

    Returns:
        Its recipe, and the learner as it was saved after the last task.

    Raises:
        RecipeError: If it is not finished, or if its method has a model for each task, or one of all at once.
        CheckpointError: If a file is damaged.
    """
    directory = RunDirectory(path)
    if directory.state != "finished":
        raise RecipeError(f"'{path}' holds no finished run: it has no {directory.results.name}.")
    record, recipe = read_record(directory.results), read_recipe(path / "recipe.yaml", {}, [])
    method = recipe.build()
    if not method.curriculum.continues:
        raise RecipeError(f"'{path}' is a run of {method.display_name}, which does not go on from task to task.")
    folder = directory.stages.get(len(record.tasks))
    if folder is None:
        raise RecipeError(f"'{path}' has no learner any more: the folder of its last task is missing below tasks/.")
    return recipe, checkpoint.read(folder)
