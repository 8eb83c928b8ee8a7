"""A task: rows with a text and a target, a template and a label set."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nacre.errors import DataError
from nacre.seeds import derive
from nacre.tasks.template import Example, Identity, TaskKind, Template, Turn

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One row: a text and the answer to it.

    Attributes:
        text: The text to read. In a conversation, the contents of `turns`, one a line.
        target: The answer: a label, or free text. Empty in a task of unlabeled text.
        references: Other answers that are as good as the target. Training uses the target alone.
        turns: All turns of a conversation before its last answer, which is the target.
        place: Where the row was read (`train.jsonl, line 7`), for messages. Rows that differ in it alone are equal.
    """

    text: str
    target: str
    references: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    place: str = field(default="", compare=False, repr=False)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The target, followed by all answers that are as good."""
        return (self.target, *self.references)

    @property
    def content(self) -> list[Any]:
        """Everything but the row's place, as plain values."""
        return [self.text, *self.accepted, *(list(turn) for turn in self.turns)]

    @property
    def learned(self) -> list[tuple[str, str]]:
        """The pairs of text and answer that training learns. The row's own text and target come last."""
        earlier = [
            (turns_text(self.turns[:number]), turn.content) for number, turn in enumerate(self.turns) if turn.learned
        ]
        return [*earlier, (self.text, self.target)]


@dataclass(frozen=True)
class Task:
    """One unit to learn.

    Attributes:
        name: The task's name.
        train: Rows to train on.
        validation: Rows to choose settings on.
        test: Rows to measure on.
        template: How a row becomes a prompt.
        labels: The label set in prompt order; None for free-text targets.
        metric: How answers are scored, a name in `nacre.tasks.metrics`. The three papers report `exact_match`.
        source: Where the rows came from (files with their hashes, seeds of held-out rows, rows left out). It is part
            of the protocol and holds plain values only.
        kind: `text` for unlabeled text: there is nothing to answer, no template applies, and the texts themselves
            are learned, as in pre-training.
        test_templates: How test rows become prompts where they are asked in other words than the training rows. Each
            row takes the one that its text says (`nacre.seeds.derive`), whatever its place in the split. Empty for the
            words of the training rows.
        sampled_as: The name on which a limited sample of the rows depends; empty for the task's own. Tasks of one such
            name that have the same rows keep the same ones.
    """

    name: str
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    template: Template
    labels: tuple[str, ...] | None = None
    metric: str = "exact_match"
    source: Mapping[str, Any] = field(default_factory=dict)
    kind: TaskKind = "answer"
    test_templates: tuple[Template, ...] = ()
    sampled_as: str = ""

    def __repr__(self) -> str:
        rows = ", ".join(f"{len(self.rows(split))} {split}" for split in SPLITS)
        answers = (
            "unlabeled text" if self.kind == "text" else f"{len(self.labels)} labels" if self.labels else "free text"
        )
        return f"Task({self.name}: {rows} rows; {answers}; {self.metric})"

    @property
    def conversations(self) -> bool:
        """Whether the rows are conversations, to which no template of nacre applies."""
        return any(row.turns for row in self.train[:1])

    def rows(self, split: Split) -> tuple[Row, ...]:
        """Returns the rows of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def examples(self, split: Split) -> list[Example]:
        """Returns the examples of a split, in row order."""
        if self.kind == "text":
            return [Example("", row.text, "", "", "text", task=self.name) for row in self.rows(split)]
        if self.conversations:
            return [Example("", row.text, "", row.target, turns=row.turns, task=self.name) for row in self.rows(split)]
        templates = (self.test_templates if split == "test" else ()) or (self.template,)
        return [
            _chosen(templates, row.text).example(row.text, row.target, self.labels, task=self.name)
            for row in self.rows(split)
        ]

    def spread(self, split: Split, count: int) -> list[Example]:
        """So many examples of a split, at even distances; all if there are no more."""
        examples = self.examples(split)
        count = min(count, len(examples))
        return [examples[place * len(examples) // count] for place in range(count)]

    def check(self) -> Task:
        """Checks the rows against the task.

        Returns:
            The task itself.

        Raises:
            DataError: A split is empty or a row is wrong; the message names the split and the row.
        """
        if self.kind == "text" and self.labels is not None:
            raise DataError(
                f"Task '{self.name}' is unlabeled text but has labels; remove the labels, or the kind 'text'."
            )
        for split in SPLITS:
            rows = self.rows(split)
            if not rows:
                raise DataError(f"Task '{self.name}': the {split} split is empty; every split needs at least one row.")
            for number, row in enumerate(rows, start=1):
                where = f"Task '{self.name}', {split} row {number}"
                if self.labels is not None and row.target not in self.labels:
                    raise DataError(
                        f"{where}: label '{row.target}' is not in the label set ({', '.join(self.labels)})."
                    )
                if self.kind == "text" and row.target:
                    raise DataError(f"{where}: unlabeled text has no target, but this row has '{row.target}'.")
                if bool(row.turns) != self.conversations:
                    raise DataError(f"{where}: either all rows of a task are conversations, or none are.")
                if not row.text.strip() or (self.kind != "text" and not row.target.strip()):
                    raise DataError(f"{where}: the text or the target is empty.")
        return self

    def limited(self, train: int | None = None, test: int | None = None) -> Task:
        """Returns the task with at most that many rows for training and for testing.

        The rows are a random sample, in row order, that depends on the task's name (or `sampled_as`) and the number
        alone: every run with the same limit trains and tests on the same rows, whatever its seed. (The first rows would
        depend on how the source is sorted.)

        Args:
            train: The largest number of training rows; None for all.
            test: The largest number of test rows; None for all.
        """
        name = self.sampled_as or self.name
        return replace(
            self,
            train=_sample(self.train, train, f"{name}/train"),
            test=_sample(self.test, test, f"{name}/test"),
        )

    def with_identity(self, identity: Identity) -> Task:
        """Returns the task with another identity prefix in its prompts.

        Conversations have no place for a prefix; a task of conversations is returned as it is.
        """
        if self.conversations:
            return self
        return replace(
            self,
            template=replace(self.template, identity=identity),
            test_templates=tuple(replace(template, identity=identity) for template in self.test_templates),
        )


def turns_text(turns: Sequence[Turn]) -> str:
    """Returns the contents of all turns, one a line, whatever their roles."""
    return "\n".join(turn.content for turn in turns)


def _chosen(templates: Sequence[Template], text: str) -> Template:
    return templates[derive(0, "words", text) % len(templates)] if len(templates) > 1 else templates[0]


def _sample(rows: tuple[Row, ...], limit: int | None, where: str) -> tuple[Row, ...]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = sorted(random.Random(derive(0, "limit", where)).sample(range(len(rows)), limit))
    return tuple(rows[index] for index in chosen)
