"""Some of a task's classes as a task of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from nacre.errors import DataError
from nacre.seeds import derive
from nacre.tasks.checking.overlap import forms
from nacre.tasks.making.made_task import Change
from nacre.tasks.task import Row, Task


@final
@dataclass(frozen=True)
class Deal:
    """A class, and which of its rows a task gets where several tasks share the class.

    A row's text decides which task gets it, so that rows of one text stay together, and those that differ in case,
    punctuation and white space alone.

    Attributes:
        label: The class.
        part: The task's number among those that share the class, from 0.
        parts: How many share it.
    """

    label: str
    part: int = 0
    parts: int = 1

    def has(self, row: Row) -> bool:
        """Returns whether a row is one of these."""
        return row.target == self.label and (self.parts == 1 or self._dealt(row) == self.part)

    def _dealt(self, row: Row) -> int:
        _, normal = forms(row.text)
        return derive(0, "deal", normal.hex()) % self.parts

    @property
    def said(self) -> str:
        """The class and the part of it, for the record."""
        return self.label if self.parts == 1 else f"{self.label} (part {self.part + 1} of {self.parts})"


@final
@dataclass(frozen=True)
class SomeClasses(Change):
    """Rows of these classes alone, in every split; they are the label set, in this order.

    Attributes:
        deals: The classes, with their rows.
    """

    deals: tuple[Deal, ...]

    @property
    def said(self) -> str:
        """See `Change`."""
        return "rows of " + ", ".join(deal.said for deal in self.deals)

    def apply(self, task: Task) -> Task:
        """See `Change`."""
        labels = tuple(deal.label for deal in self.deals)
        if lacking := [label for label in labels if label not in (task.labels or ())]:
            raise DataError(
                f"Task '{task.name}' is made of the label '{lacking[0]}', which the label set of the rows lacks "
                f"({', '.join(task.labels or ())})."
            )
        train, validation, test = (
            tuple(row for row in rows if any(deal.has(row) for deal in self.deals))
            for rows in (task.train, task.validation, task.test)
        )
        return replace(task, labels=labels, train=train, validation=validation, test=test)
