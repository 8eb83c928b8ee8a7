"""Settings that may differ from task to task: one number for all of them, or one for each."""

from __future__ import annotations

from nacre.errors import RecipeError

PerTask = float | tuple[float, ...]
"""A number, or a list of numbers in the order of the stream, as papers print their schedules."""


def value_of(setting: PerTask, task_number: int, name: str) -> float:
    """The setting on a task (numbered from 1). name: what an error calls it.

    Raises ``RecipeError`` if the list is shorter than the stream.
    """
    if not isinstance(setting, tuple):
        return setting
    if task_number > len(setting):
        raise RecipeError(
            f"{name} lists {len(setting)} value(s), and this is task {task_number}: give one for each task of the "
            "stream, or a single one for all."
        )
    return setting[task_number - 1]


def all_values(setting: PerTask) -> tuple[float, ...]:
    """Every value that occurs, for checks of range."""
    return setting if isinstance(setting, tuple) else (setting,)


def check_not_negative(setting: PerTask, name: str) -> None:
    """Raise ``RecipeError`` if a setting, or one of its values, is below zero."""
    for value in all_values(setting):
        if not value >= 0:
            raise RecipeError(f"{name} is {value}; it cannot be negative.")
