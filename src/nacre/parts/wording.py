"""How a row is written in one string, and what the model reads to write one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.documents import shown
from nacre.errors import DataError, RecipeError
from nacre.models.families import WHOLE, Encoded, Lengths
from nacre.parts.part import LearnerView
from nacre.tasks.pseudo_rows import row_as_text
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Example, Template


@dataclass(frozen=True)
class Wording:
    """How rows are written in one string.

    Attributes:
        cue: What the model reads to write a row of a task; {task} stands for its name.
        separator: What stands between text and answer.
        max_length: A written row has at most so many tokens, its end token included.
    """

    cue: str
    separator: str
    max_length: int

    def __post_init__(self) -> None:
        if not self.separator.strip():
            raise RecipeError("separator: something that can be read must stand between text and answer.")
        if self.max_length < 1:
            raise RecipeError(f"max_length = {self.max_length} is not a positive number of tokens.")

    def check(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Check that rows of these tasks can be written, and read back.

        Raises:
            RecipeError: If the host has too few positions.
            DataError: If they cannot.
        """
        positions = getattr(learner.host.model.config, "max_position_embeddings", None)
        if positions is not None and self.max_length > positions:
            raise RecipeError(f"max_length = {self.max_length}: the model has {positions} positions, too few.")
        for task in tasks:
            if task.conversations:
                raise DataError(f"Task '{task.name}' has conversations, and written rows are single texts.")
        tokenizer = learner.host.tokenizer
        ids = tokenizer(self.separator, add_special_tokens=False)["input_ids"]
        if "".join(str(tokenizer.decode(ids)).split()).casefold() != "".join(self.separator.split()).casefold():
            raise DataError(
                f"separator = {shown(self.separator)}: the tokenizer of '{learner.host.name}' cannot write it back, so "
                "that no row could be taken apart."
            )

    def asked(self, learner: LearnerView, task: str) -> Encoded:
        """The cue of a task, behind which a row is to be written."""
        return learner.host.family.encode(self._example(task, ""), self._lengths)

    def written(self, learner: LearnerView, task: str, text: str, answer: str) -> Encoded:
        """The cue of a task, and a row of it as the target: see `fitted`."""
        return learner.host.family.encode(self._example(task, self.fitted(learner, task, text, answer)), self._lengths)

    def fitted(self, learner: LearnerView, task: str, text: str, answer: str) -> str:
        """A row in one string that is not too long.

        A text that is too long loses its end. Separator and answer stay: without them the row could not be read back.

        Raises:
            DataError: They alone are too long.
        """
        family = learner.host.family

        def row(text: str) -> Example:
            return self._example(task, row_as_text(text, answer, self.separator))

        if not family.is_cut(family.encode_target(row(text), self._lengths)):
            return row(text).target
        if (alone := len(family.encode_target(row(""), WHOLE))) >= self.max_length:
            raise DataError(
                f"max_length = {self.max_length}: the answer '{answer}' of task '{task}' takes {alone} tokens with the "
                "separator, which leaves none for a text."
            )
        return row(family.fitting(" ".join(text.split()), self.max_length, row)).target

    def lesson(self, learner: LearnerView, task: Task) -> Task:
        """To write the task's rows from its cue, as a task that can be learned.

        Raises:
            DataError: If a row cannot be written in so many tokens.
        """
        cue = self._example(task.name, "").input
        rows = tuple(Row(cue, self.fitted(learner, task.name, row.text, row.target)) for row in task.train)
        return Task(task.name, rows, (), (), Template(answer_cue=""))

    @property
    def _lengths(self) -> Lengths:
        return Lengths(target=self.max_length)

    def _example(self, task: str, written: str) -> Example:
        return Example(self.cue.replace("{task}", task), "", "", written, task=task)
