"""What is kept of past tasks' data, and given back while a new task is learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nacre.parts.part import Learner, Part
from nacre.tasks.template import Example


class Memory(Part, ABC):
    @abstractmethod
    def examples(self, learner: Learner) -> Sequence[Example]:
        """Stored examples of past tasks, each with its ``task``; they are mixed into the new task's epoch. Where each
        task has a head of its own, they are asked for once before, too, to know whose heads are trained."""

    def size(self, rows: int) -> int | None:
        """How many examples are stored of a task with so many rows; None if that shows only when it is learnt."""
        return None
