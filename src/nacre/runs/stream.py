"""The tasks that a recipe means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nacre.errors import RecipeError
from nacre.evaluation.scoring import check_metric, normalized_labels
from nacre.runs.recipe import Recipe
from nacre.tasks.sources import find_tasks, load_tasks
from nacre.tasks.stream_file import read_stream
from nacre.tasks.streams import get_stream
from nacre.tasks.task import Task


def task_names(recipe: Recipe) -> Sequence[str]:
    """The stream's tasks in their order, without a look at the data."""
    if recipe.stream_file is not None:
        return read_stream(recipe.stream_file).task_names
    return get_stream(recipe.stream).tasks if isinstance(recipe.stream, str) else recipe.stream


def tasks_of(recipe: Recipe) -> list[Task]:
    """The stream's tasks as the recipe wants them; raises if a row, label, split or metric is not what a task needs."""
    tasks = []
    for task in _loaded(recipe):
        normalized_labels(task)
        check_metric(task)
        if recipe.measure_on == "validation":
            task = replace(task, test=task.validation)
        tasks.append(task.with_identity(recipe.identity).limited(recipe.limit_train, recipe.limit_test).check())
    return tasks


def _loaded(recipe: Recipe) -> list[Task]:
    if recipe.stream_file is not None:
        if recipe.data is not None:
            raise RecipeError(f"Stream file '{recipe.stream}' names its own files and takes no --data.")
        return read_stream(recipe.stream_file).load()
    names: Sequence[str]
    if isinstance(recipe.stream, str) and recipe.data is not None and recipe.stream in find_tasks(recipe.data):
        names = [recipe.stream]
    else:
        names = task_names(recipe)
        if recipe.data is None and isinstance(recipe.stream, str) and recipe.stream != "demo":
            raise RecipeError(f"Stream '{recipe.stream}' needs --data: the folder that holds its tasks.")
        if recipe.data is not None and recipe.stream == "demo":
            raise RecipeError(
                "Stream 'demo' makes its own rows and takes no --data; name a stream or tasks of that folder."
            )
    return load_tasks(names, recipe.data)
