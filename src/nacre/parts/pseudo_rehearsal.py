"""Pseudo-rehearsal: the learner writes rows of earlier tasks itself and learns them with the new task (LFPT5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, final

from nacre.documents import shown
from nacre.errors import DataError, RecipeError
from nacre.events import PseudoRowsGenerated, Warned
from nacre.models.families import WHOLE, Encoded, Lengths
from nacre.parts.part import LearnerView, Memory
from nacre.seeds import derive
from nacre.tasks.pseudo_rows import parse_rows, row_as_text
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


@dataclass(frozen=True)
class PseudoState:
    """What pseudo-rehearsal remembers.

    Attributes:
        asked: Every learned task.
        rows: What was written for the newest task: task, text and answer of each row.
    """

    asked: list[AskedTask]
    rows: list[list[str]]

    def written(self) -> list[tuple[Example, str]]:
        """The written rows as examples of their tasks, each with its bare text."""
        forms = {asked.task: asked for asked in self.asked}
        return [
            (Template(**forms[task].template).example(text, answer, forms[task].labels, task=task), text)
            for task, text, answer in self.rows
        ]


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
        if "{task}" not in self.cue:
            raise RecipeError(f"cue = {shown(self.cue)}: it must contain {{task}}, or all tasks would be asked alike.")
        if not self.separator.strip():
            raise RecipeError("separator: something that can be read must stand between text and answer.")
        if self.max_length < 1:
            raise RecipeError(f"max_length = {self.max_length} is not a positive number of tokens.")

    def asked(self, learner: LearnerView, task: str) -> Encoded:
        """The cue of a task, behind which a row is to be written."""
        return learner.host.family.encode(self._example(task, ""), self._lengths)

    def written(self, learner: LearnerView, task: str, text: str, answer: str) -> Encoded:
        """The cue of a task, and a row of it as the target.

        A text that is too long loses its end. Separator and answer stay: without them the row could not be read back.

        Raises:
            DataError: They alone are too long.
        """
        family = learner.host.family

        def row(text: str) -> Example:
            return self._example(task, row_as_text(text, answer, self.separator))

        encoded = family.encode(row(text), self._lengths)
        if not family.is_cut(encoded.target):
            return encoded
        if (alone := len(family.encode_target(row(""), WHOLE))) >= self.max_length:
            raise DataError(
                f"max_length = {self.max_length}: the answer '{answer}' of task '{task}' takes {alone} tokens with the "
                "separator, which leaves none for a text."
            )
        return family.encode(row(family.fitting(" ".join(text.split()), self.max_length, row)), self._lengths)

    @property
    def _lengths(self) -> Lengths:
        return Lengths(target=self.max_length)

    def _example(self, task: str, written: str) -> Example:
        return Example(self.cue.replace("{task}", task), "", "", written, task=task)


@final
@dataclass(frozen=True)
class PseudoRehearsal(Memory):
    """Before each task, rows of every earlier task are sampled from its cue, and join the new task's epochs.

    Sample number j of a task depends on the seed, the task and j alone: a run that is killed and continued draws the
    same ones. They are saved with the learner, and reported (`PseudoRowsGenerated`).

    State: `PseudoState`.

    Attributes:
        wording: How rows are written.
        per_label: So many rows of each label are kept, or of a task without labels.
        draws: So many samples are drawn of each label, or of a task without labels.
        top_k: Among so many most likely tokens each is drawn; None: among all.
        batch_size: Samples drawn at once.
    """

    State: ClassVar[type[PseudoState]] = PseudoState
    learns: ClassVar[frozenset[TaskKind]] = ANSWERS
    writes: ClassVar[bool] = True

    wording: Wording
    per_label: int
    draws: int
    top_k: int | None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.per_label < 1 or self.draws < self.per_label:
            raise RecipeError(
                f"draws = {self.draws}, per_label = {self.per_label}: at least one row of a label is kept, of at least "
                "as many samples."
            )

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.conversations:
                raise DataError(f"Task '{task.name}' has conversations, and pseudo-rehearsal writes single texts.")
        tokenizer, separator = learner.host.tokenizer, self.wording.separator
        ids = tokenizer(separator, add_special_tokens=False)["input_ids"]
        if "".join(str(tokenizer.decode(ids)).split()).casefold() != "".join(separator.split()).casefold():
            raise DataError(
                f"separator = {shown(separator)}: the tokenizer of '{learner.host.name}' cannot write it back, so that "
                "no row could be taken apart."
            )

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        state = self._state(learner)
        rows: list[list[str]] = []
        for asked in state.asked:
            rows += self._written(learner, asked)
        now = PseudoState(state.asked, rows)
        learner.remember(self, now)
        return [example for example, _ in now.written()]

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        state = self._state(learner)
        asked = {each.task: each for each in state.asked}
        for task in tasks:
            asked[task.name] = AskedTask(
                task.name, asdict(task.template), None if task.labels is None else list(task.labels)
            )
        learner.remember(self, PseudoState(list(asked.values()), state.rows))

    def _state(self, learner: LearnerView) -> PseudoState:
        return learner.remembered(self, PseudoState) or PseudoState([], [])

    def _written(self, learner: LearnerView, asked: AskedTask) -> list[list[str]]:
        count = self.draws * len(asked.labels or [""])
        row = self.wording.asked(learner, asked.task)
        samples: list[str] = []
        for start in range(0, count, self.batch_size):
            numbers = range(start, min(count, start + self.batch_size))
            where = (learner.state.seed, self.key, learner.task_number, asked.task)
            seeds = [derive(*where, number) for number in numbers]
            drawn = learner.host.sample(
                [row] * len(numbers), 1, seeds=seeds, max_new_tokens=self.wording.max_length, top_k=self.top_k
            )
            samples += [sample for (sample,) in drawn]
        found = parse_rows(samples, self.wording.separator, asked.labels, self.per_label)
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
                    f"None of {found.drawn} samples is a row of '{asked.task}', so that nothing of it is rehearsed: "
                    "train longer, or draw more."
                )
            )
        return [[asked.task, row.text, row.target] for row in found.rows]
