"""Rows of learned tasks that a model writes itself: drawn row by row, taken apart, reported."""

from __future__ import annotations

from dataclasses import dataclass

from nacre.events import PseudoRowsGenerated, Warned
from nacre.parts.part import LearnerView
from nacre.parts.wording import Wording
from nacre.seeds import derive
from nacre.tasks.pseudo_rows import parse_rows
from nacre.tasks.template import Example, TaskKind

ANSWERS: frozenset[TaskKind] = frozenset({"answer"})


@dataclass(frozen=True)
class PseudoState:
    """What is remembered of written rows.

    Attributes:
        rows: What was written for the newest task: task, text and answer of each row.
    """

    rows: list[list[str]]

    def examples(self, learner: LearnerView) -> list[tuple[Example, str]]:
        """The written rows as examples of their tasks, each with its bare text."""
        forms = learner.state.forms
        return [(forms[task].example(task, text, answer), text) for task, text, answer in self.rows]


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
        self, learner: LearnerView, key: str, task: str, count: int, limit: int, *, by_label: bool
    ) -> list[list[str]]:
        """Let the host write rows of a task, as it answers now, and report them (`PseudoRowsGenerated`).

        Args:
            learner: Who asks.
            key: The part for which they are written.
            task: The name of a task that has been learned.
            count: Samples that are drawn.
            limit: Rows that are kept at most.
            by_label: Whether `limit` holds for each label, where the task has some.

        Returns:
            Task, text and answer of each row.
        """
        row = self.wording.asked(learner, task)
        samples: list[str] = []
        for start in range(0, count, self.batch_size):
            numbers = range(start, min(count, start + self.batch_size))
            where = (learner.state.seed, key, learner.task_number, task)
            seeds = [derive(*where, number) for number in numbers]
            drawn = learner.host.sample(
                [row] * len(numbers), 1, seeds=seeds, max_new_tokens=self.wording.max_length, top_k=self.top_k
            )
            samples += [sample for (sample,) in drawn]
        found = parse_rows(samples, self.wording.separator, learner.state.forms[task].labels, limit, by_label=by_label)
        learner.on_event(
            PseudoRowsGenerated(
                task=task,
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
                    f"None of {found.drawn} samples is a row of '{task}', so that none is kept: train longer, "
                    "or draw more."
                )
            )
        return [[task, row.text, row.target] for row in found.rows]
