"""Settings that may differ from task to task: one number for all of them, or one for each."""

from __future__ import annotations

from nacre.errors import RecipeError

PerTask = float | tuple[float, ...]
"""A number, or a list of numbers in the order of the stream, as papers print their schedules."""


def value_of(setting: PerTask, task_number: int, name: str) -> float:
    """The setting's value on one task.

    Args:
        setting: One value for all tasks, or a list.
        task_number: The task, from 1.
        name: What an error calls the setting.

    Raises:
        RecipeError: The list is shorter than the stream.
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
    """All values of a setting, for checks of range."""
    return setting if isinstance(setting, tuple) else (setting,)


def check_not_negative(setting: PerTask, name: str) -> None:
    """Refuse negative values.

    Args:
        setting: One value for all tasks, or a list.
        name: What an error calls the setting.

    Raises:
        RecipeError: A value is below zero or not a number.
    """
    for value in all_values(setting):
        if not value >= 0:
            raise RecipeError(f"{name} is {value}; it cannot be negative.")
