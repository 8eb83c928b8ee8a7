"""Each row is answered by what its own task has learned: the task is given, in training and at test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from nacre.adapters.adapter import Adapter
from nacre.adapters.route import Route
from nacre.parts.part import LearnerView, Reading, Routing
from nacre.parts.slots_of_tasks import note_tasks, slots_of_tasks
from nacre.tasks.task import Task


@dataclass(frozen=True)
class GivenTask(Routing):
    """Row b is answered by the slot of its task. A task that was never learned has the newest one.

    Of a task that was learned again, the last time counts.
    """

    needs_task_at_test: ClassVar[bool] = True

    def objection(self, adapter: Adapter) -> str | None:
        return (
            None if adapter.weighable else "it chooses among what each task has of its own, and all share one set here"
        )

    def chooses_task(self, adapter: Adapter) -> bool:
        return True

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        note_tasks(learner, tasks)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        if learner.adapter.tasks == 0:
            return None
        return Route(slots=torch.tensor(slots_of_tasks(learner, reading.tasks)))
