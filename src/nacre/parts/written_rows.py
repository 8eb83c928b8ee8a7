"""Rows of learned tasks that a model writes itself: drawn row by row, taken apart, reported."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nacre.events import PseudoRowsGenerated, Warned
from nacre.parts.part import LearnerView
from nacre.parts.wording import Wording
from nacre.seeds import derive
from nacre.tasks.pseudo_rows import parse_rows
from nacre.tasks.task import Task
from nacre.tasks.template import Example, TaskKind, Template

ANSWERS: frozenset[TaskKind] = frozenset({"answer"})


@dataclass(frozen=True)
class AskedTask:
    """How a learned task is asked; its rows are not kept.

    Attributes:
        task: Its name.
        template: The fields of its `Template`.
        labels: Its labels; None for free text.
    """

    task: str
    template: dict[str, Any]
    labels: list[str] | None

    @classmethod
    def of(cls, task: Task) -> AskedTask:
        """How a task is asked."""
        return cls(task.name, asdict(task.template), None if task.labels is None else list(task.labels))

    def example(self, text: str, answer: str) -> Example:
        """A row of the task as it is learned."""
        return Template(**self.template).example(text, answer, self.labels, task=self.task)


@dataclass(frozen=True)
class PseudoState:
    """What is remembered of written rows.

    Attributes:
        asked: Every learned task.
        rows: What was written for the newest task: task, text and answer of each row.
    """

    asked: list[AskedTask]
    rows: list[list[str]]

    def written(self) -> list[tuple[Example, str]]:
        """The written rows as examples of their tasks, each with its bare text."""
        forms = {asked.task: asked for asked in self.asked}
        return [(forms[task].example(text, answer), text) for task, text, answer in self.rows]


@dataclass(frozen=True)
class RowDraws:
    """How rows are drawn: number j of a task depends on the seed, the part, the task and j alone.

    Attributes:
        wording: How rows are written.
        top_k: Among so many most likely tokens each is drawn; None: among all.
        batch_size: Samples drawn at once.
    """

    wording: Wording
    top_k: int | None
    batch_size: int

    def write(
        self, learner: LearnerView, key: str, asked: AskedTask, count: int, limit: int, *, by_label: bool
    ) -> list[list[str]]:
        """Let the host write rows of a task, as it answers now, and report them (`PseudoRowsGenerated`).

        Args:
            learner: Who asks.
            key: The part for which they are written.
            asked: The task.
            count: Samples that are drawn.
            limit: Rows that are kept at most.
            by_label: Whether `limit` holds for each label, where the task has some.

        Returns:
            Task, text and answer of each row.
        """
        row = self.wording.asked(learner, asked.task)
        samples: list[str] = []
        for start in range(0, count, self.batch_size):
            numbers = range(start, min(count, start + self.batch_size))
            where = (learner.state.seed, key, learner.task_number, asked.task)
            seeds = [derive(*where, number) for number in numbers]
            drawn = learner.host.sample(
                [row] * len(numbers), 1, seeds=seeds, max_new_tokens=self.wording.max_length, top_k=self.top_k
            )
            samples += [sample for (sample,) in drawn]
        found = parse_rows(samples, self.wording.separator, asked.labels, limit, by_label=by_label)
        learner.on_event(
            PseudoRowsGenerated(
                task=asked.task,
                drawn=found.drawn,
                parsed=found.parsed,
                duplicates=found.duplicates,
                kept=len(found.rows),
                labels=found.labels,
            )
        )
        if not found.rows:
            learner.on_event(
                Warned(
                    f"None of {found.drawn} samples is a row of '{asked.task}', so that none is kept: train longer, "
                    "or draw more."
                )
            )
        return [[asked.task, row.text, row.target] for row in found.rows]
