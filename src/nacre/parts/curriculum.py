"""The stages in which a stream is learned, and the entries of the score matrix that they fill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nacre.tasks.task import Task


@dataclass(frozen=True)
class Stage:
    """One call of `learn`.

    Attributes:
        name: The task's name, or 'joint'.
        tasks: The tasks that are learned in it.
        row: The row of the matrix that it fills, 1 to T.
        measured: The tasks that this row scores anew.
        afresh: Whether it begins from the untouched host.
    """

    name: str
    tasks: tuple[Task, ...]
    row: int
    measured: tuple[Task, ...]
    afresh: bool = False


class Curriculum(ABC):
    """How a stream is divided into stages."""

    continues: ClassVar[bool]
    """Whether a learner that has learned something may be given more."""

    @abstractmethod
    def stages(self, tasks: Sequence[Task]) -> list[Stage]:
        """The stages in which the stream is learned, in order."""

    @property
    def needs_task_at_test(self) -> bool:
        """Whether each input's task must be known at test."""
        return False


@dataclass(frozen=True)
class Sequential(Curriculum):
    """One model learns task after task; after each, every task of the stream is measured."""

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
