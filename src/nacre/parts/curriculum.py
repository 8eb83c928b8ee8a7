"""In which portions a stream is learnt, and which entries of the score matrix that defines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nacre.tasks.task import Task


@dataclass(frozen=True)
class Stage:
    """One call of ``learn``. row: which row of the matrix it fills (1..T); measured: which tasks that row scores
    anew; afresh: whether it begins from the untouched host."""

    name: str
    tasks: tuple[Task, ...]
    row: int
    measured: tuple[Task, ...]
    afresh: bool = False


class Curriculum(ABC):
    continues: ClassVar[bool]
    """Whether a learner that has learnt something may be given more."""

    @abstractmethod
    def stages(self, tasks: Sequence[Task]) -> list[Stage]:
        """The portions in which the stream is learnt, in order."""

    @property
    def needs_task_at_test(self) -> bool:
        """Whether one must be told which task an input belongs to."""
        return False


@dataclass(frozen=True)
class Sequential(Curriculum):
    """Task after task, one model: after each, every task of the stream is measured."""

    continues: ClassVar[bool] = True

    def stages(self, tasks: Sequence[Task]) -> list[Stage]:
        everything = tuple(tasks)
        return [Stage(task.name, (task,), number, everything) for number, task in enumerate(tasks, start=1)]


@dataclass(frozen=True)
class Joint(Curriculum):
    """All tasks at once: only the matrix's last row exists."""

    continues: ClassVar[bool] = False

    def stages(self, tasks: Sequence[Task]) -> list[Stage]:
        everything = tuple(tasks)
        return [Stage("joint", everything, len(everything), everything)]


@dataclass(frozen=True)
class Independent(Curriculum):
    """A fresh copy of the host for each task, which answers that task only."""

    continues: ClassVar[bool] = False

    def stages(self, tasks: Sequence[Task]) -> list[Stage]:
        return [Stage(task.name, (task,), number, (task,), afresh=True) for number, task in enumerate(tasks, start=1)]

    @property
    def needs_task_at_test(self) -> bool:
        return True
