"""The tasks that a recipe means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nacre.evaluation.scoring import check_metric, normalized_labels
from nacre.runs.recipe import Recipe
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.stream_file import load_stream, read_stream
from nacre.tasks.task import Task


def task_names(recipe: Recipe) -> Sequence[str]:
    """The stream's tasks in their order, without a look at the data."""
    if recipe.stream_file is not None:
        return read_stream(recipe.stream_file).task_names
    return get_stream(recipe.stream).tasks if isinstance(recipe.stream, str) else recipe.stream


def tasks_of(recipe: Recipe) -> list[Task]:
    """The stream's tasks as the recipe wants them; raises if a row, label, split or metric is not what a task needs."""
    tasks = []
    for task in load_stream(str(recipe.stream_file or "") or recipe.stream, recipe.data, option="--data"):
        normalized_labels(task)
        check_metric(task)
        if recipe.measure_on == "validation":
            task = replace(task, test=task.validation)
        tasks.append(task.with_identity(recipe.identity).limited(recipe.limit_train, recipe.limit_test).check())
    return tasks
