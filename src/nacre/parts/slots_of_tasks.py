"""Which slot is a task's own, where rows come with their tasks."""

from __future__ import annotations

from collections.abc import Sequence

from nacre.parts.part import LearnerView
from nacre.tasks.task import Task

_NOW = "tasks being learned"


def note_tasks(learner: LearnerView, tasks: Sequence[Task]) -> None:
    """Say which tasks are being learned, until learning stops: of a task learned again, its newest slot counts."""
    learner.resources[_NOW] = tuple(tasks)


def tasks_being_learned(learner: LearnerView) -> tuple[Task, ...]:
    """What `note_tasks` noted; () between tasks."""
    noted: tuple[Task, ...] = learner.resources.get(_NOW, ())
    return noted


def tasks_of_slots(learner: LearnerView) -> list[list[str]]:
    """The names of the tasks that each slot has learned, oldest first."""
    names: list[list[str]] = [[] for _ in range(learner.adapter.tasks)]
    for number, name in enumerate(learner.state.tasks if names else ()):
        names[min(number, len(names) - 1)].append(name)
    return names


def slots_of_tasks(learner: LearnerView, names: Sequence[str]) -> list[int]:
    """The slot of each of the named tasks, from 0; of one that was never learned, the newest slot."""
    newest = learner.adapter.tasks - 1
    slots = {name: min(number, newest) for number, name in enumerate(learner.state.tasks)}
    slots |= dict.fromkeys((task.name for task in tasks_being_learned(learner)), newest)
    return [slots.get(name, newest) for name in names]
