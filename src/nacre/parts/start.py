"""How a new task's parameters begin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from nacre.parts.part import Learner, Part
from nacre.seeds import derive


class Start(Part, ABC):
    @abstractmethod
    def fill(self, learner: Learner) -> None:
        """Fill the slot that the adapter has just opened."""


@dataclass(frozen=True)
class Fresh(Start):
    """The adapter's usual random start, drawn from the run's seed and the task's number."""

    def fill(self, learner: Learner) -> None:
        learner.adapter.fresh(derive(learner.state.seed, "start", learner.task_number))
