"""A task: what is to be learnt, as rows with a text and a target, a template and a label set."""

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
    """One row: the text that is read and the target that is to be answered (a label, or free text; nothing in a task
    of unlabelled text).

    references: other answers that are as good as the target. Training knows the target alone.
    turns: of a conversation, all before the last answer, which is the target; the text is what they say, turn by turn.
    place: where it was found (``train.jsonl, line 7``), for messages; rows that differ in it alone are equal.
    """

    text: str
    target: str
    references: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    place: str = field(default="", compare=False, repr=False)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The target, which comes first, and all answers that are as good."""
        return (self.target, *self.references)

    @property
    def content(self) -> list[Any]:
        """All of the row but its place, as plain values."""
        return [self.text, *self.accepted, *(list(turn) for turn in self.turns)]

    @property
    def learned(self) -> list[tuple[str, str]]:
        """Every answer that training learns, behind the text before it; the row's own text and target come last."""
        earlier = [(said(self.turns[:number]), turn.content) for number, turn in enumerate(self.turns) if turn.learned]
        return [*earlier, (self.text, self.target)]


@dataclass(frozen=True)
class Task:
    """One unit to learn.

    labels: the label set in prompt order; None for free-text targets.
    metric: how answers are scored, a name of ``nacre.tasks.metrics``; ``exact_match`` is what the three papers report.
    kind: ``text``: there is nothing to be answered; the texts themselves are learnt, as in pre-training, and no
        template touches them.
    source: where the rows came from (files with their hashes, seeds of carved splits, rows left out), part of
        the protocol. Plain values only.
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

    @property
    def conversations(self) -> bool:
        """Whether the rows are conversations, which no template of nacre's touches."""
        return any(row.turns for row in self.train[:1])

    def rows(self, split: Split) -> tuple[Row, ...]:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def examples(self, split: Split) -> list[Example]:
        """The split's examples in row order."""
        if self.kind == "text":
            return [Example("", row.text, "", "", "text", task=self.name) for row in self.rows(split)]
        if self.conversations:
            return [Example("", row.text, "", row.target, turns=row.turns, task=self.name) for row in self.rows(split)]
        made = (self.template.example(row.text, row.target, self.labels) for row in self.rows(split))
        return [replace(example, task=self.name) for example in made]

    def check(self) -> Task:
        """Return the task itself, or raise ``DataError`` naming the split and row that is wrong."""
        if self.kind == "text" and self.labels is not None:
            raise DataError(
                f"Task '{self.name}' is unlabelled text, and has labels; take them out, or its kind 'text'."
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
                    raise DataError(f"{where}: unlabelled text has no target, and this row has '{row.target}'.")
                if bool(row.turns) != self.conversations:
                    raise DataError(f"{where}: either all rows of a task are conversations, or none is.")
                if not row.text.strip() or (self.kind != "text" and not row.target.strip()):
                    raise DataError(f"{where}: the text or the target is empty.")
        return self

    def limited(self, train: int | None = None, test: int | None = None) -> Task:
        """The task with at most that many rows for training and for testing.

        A random sample, in row order, that depends on the task's name and the number alone: every run with the
        same limit trains and tests on the same rows, whatever its seed. (A slice from the top would follow
        whatever order the source has.)
        """
        return replace(
            self,
            train=_sample(self.train, train, f"{self.name}/train"),
            test=_sample(self.test, test, f"{self.name}/test"),
        )

    def with_identity(self, identity: Identity) -> Task:
        """The task with another identity prefix in its prompts; of conversations, which have no room for one, the task
        as it is."""
        if self.conversations:
            return self
        return replace(self, template=replace(self.template, identity=identity))


def said(turns: Sequence[Turn]) -> str:
    """What is said in a conversation, turn by turn, whoever says it."""
    return "\n".join(turn.content for turn in turns)


def _sample(rows: tuple[Row, ...], limit: int | None, where: str) -> tuple[Row, ...]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = sorted(random.Random(derive(0, "limit", where)).sample(range(len(rows)), limit))
    return tuple(rows[index] for index in chosen)
