"""How a new task's parameters begin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from nacre.parts.part import Learner, Part
from nacre.seeds import derive
from nacre.tasks.task import Task


class Start(Part, ABC):
    @abstractmethod
    def fill(self, learner: Learner, tasks: Sequence[Task]) -> None:
        """Fill the slot that the adapter has just opened for these tasks."""


@dataclass(frozen=True)
class Fresh(Start):
    """The adapter's usual random start, drawn from the run's seed and the task's number."""

    def fill(self, learner: Learner, tasks: Sequence[Task]) -> None:
        learner.adapter.fresh(derive(learner.state.seed, "start", learner.task_number))
