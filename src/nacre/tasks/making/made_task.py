"""A task that is made of another one, change by change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

from nacre.errors import DataError
from nacre.tasks.task import Task


class Change(ABC):
    """One step on the way from a task to the one that is made of it. Subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def said(self) -> str:
        """What the change does, in a few words for the record."""

    @abstractmethod
    def apply(self, task: Task) -> Task:
        """Returns the changed task.

        Args:
            task: The task; it has the name of the one that is made.

        Raises:
            DataError: Its rows do not allow the change.
        """


@final
@dataclass(frozen=True)
class MadeTask:
    """A task made of another one's rows.

    Attributes:
        name: The task's name.
        of: The canonical name of the task that has the rows.
        changes: What is changed, in this order; nothing for that task as it is.
    """

    name: str
    of: str
    changes: tuple[Change, ...] = ()

    @property
    def said(self) -> str:
        """How the task is made, in one line."""
        return "; ".join([self.of, *(change.said for change in self.changes)])

    def make(self, base: Task) -> Task:
        """Returns the task.

        Its source names what it is made of (`made`) and holds that task's own source.

        Args:
            base: The task that has the rows.

        Raises:
            DataError: Its rows do not allow a change.
        """
        if not self.changes:
            return base
        if base.labels is None or base.conversations:
            raise DataError(
                f"Task '{self.name}' is made of '{self.of}', whose rows must be texts with labels; here they are "
                f"{'conversations' if base.conversations else 'texts without a label set'}."
            )
        made = {"of": self.of, "by": [change.said for change in self.changes], "source": dict(base.source)}
        source = {"made": made, "license": base.source.get("license")}
        task = replace(base, name=self.name, source=source, sampled_as=base.name)
        for change in self.changes:
            task = change.apply(task)
        return task.check()
