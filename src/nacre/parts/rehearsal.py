"""Replay: a few rows of every past task are kept and learned again with each new one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

from nacre.errors import RecipeError
from nacre.parts.part import LearnerView, Memory
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example, Turn


@dataclass(frozen=True)
class KeptTask:
    """The kept rows of one task, whose data files are then no longer needed.

    Attributes:
        task: Its name.
        rows: The numbers of the kept training rows, from 0.
        examples: Each row's example as four texts (before, text, after, target); of unlabeled text, behind them,
            ``text``; of conversations, behind them, the kind and the turns.
    """

    task: str
    rows: list[int]
    examples: list[list[Any]]


@dataclass(frozen=True)
class RehearsalState:
    """What the memory remembers.

    Attributes:
        kept: The kept rows, task by task.
    """

    kept: list[KeptTask]


@dataclass(frozen=True)
class Rehearsal(Memory):
    """Keep a random sample of each task's training rows and mix it into the epochs of every later task.

    The sample is drawn after the task, without replacement, and kept for good.

    State: `RehearsalState`.

    Attributes:
        fraction: floor(fraction * N) of a task's N rows are kept, but at least one; 0 keeps none.
        per_task: Number of rows to keep instead, or all if a task has fewer; None: `fraction` decides.
    """

    State: ClassVar[type[RehearsalState]] = RehearsalState

    fraction: float = 0.02
    per_task: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise RecipeError(f"fraction: {self.fraction} is not in [0, 1]; it is the share of a task's rows to keep.")
        if self.per_task is not None and self.per_task < 0:
            raise RecipeError(f"per_task: {self.per_task} is not a number of rows to keep.")

    @property
    def shardable(self) -> bool:
        return True

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        return [_example(values, kept.task) for kept in self._kept(learner) for values in kept.examples]

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        kept = self._kept(learner)
        for task in tasks:
            examples = task.examples("train")
            draw = random.Random(derive(learner.state.seed, self.key, learner.task_number, task.name))
            rows = sorted(draw.sample(range(len(examples)), self.size(len(examples))))
            texts = [_written(examples[row]) for row in rows]
            kept.append(KeptTask(task.name, rows, texts))
        learner.remember(self, RehearsalState(kept))

    def _kept(self, learner: LearnerView) -> list[KeptTask]:
        state = learner.remembered(self, RehearsalState)
        return [] if state is None else list(state.kept)

    def size(self, rows: int) -> int:
        """Number of rows kept of a task with this many."""
        if self.per_task is not None:
            return min(self.per_task, rows)
        if self.fraction == 0:
            return 0
        # The decimal number as it was written: in floating point 0.29 * 100 is less than 29.
        return max(1, int(Fraction(repr(self.fraction)) * rows))


def _written(example: Example) -> list[Any]:
    """The example as plain values, from which `_example` restores it."""
    texts = [example.before, example.text, example.after, example.target]
    if example.turns:
        return [*texts, example.kind, [list(turn) for turn in example.turns]]
    return texts if example.kind == "answer" else [*texts, example.kind]


def _example(values: Sequence[Any], task: str) -> Example:
    turns = tuple(Turn(*turn) for listed in values[5:] for turn in listed)
    return replace(Example(*values[:5], task=task), turns=turns)
