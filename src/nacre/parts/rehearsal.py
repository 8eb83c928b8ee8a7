"""Replay: a few rows of every past task are kept and learnt again with each new one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from nacre.errors import RecipeError
from nacre.parts.memory import Memory
from nacre.parts.part import Learner
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example, Turn


@dataclass(frozen=True)
class Rehearsal(Memory):
    """When a task has been learnt, some of its training rows are drawn at random, each at most once, and kept for good;
    all rows kept so far are mixed into the epochs of every later task.

    fraction: floor(fraction * N) of a task's N rows are kept, but at least one; 0 keeps none. per_task: so many rows
    instead, or all if a task has fewer.

    State: ``kept``, for every task its name, the numbers of the rows kept (from 0) and their examples as four texts
    (before, text, after, target), so that a past task's data need not be there any more; of unlabelled text, behind
    them, ``text``; of conversations, behind them, the kind and the turns.
    """

    fraction: float = 0.02
    per_task: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise RecipeError(f"fraction: {self.fraction} is not in [0, 1]; it is the share of a task's rows to keep.")
        if self.per_task is not None and self.per_task < 0:
            raise RecipeError(f"per_task: {self.per_task} is not a number of rows to keep.")

    def examples(self, learner: Learner) -> list[Example]:
        kept = learner.state.parts.get(self.key, {}).get("kept", [])
        return [_example(values, task["task"]) for task in kept for values in task["examples"]]

    def end(self, learner: Learner, tasks: Sequence[Task]) -> None:
        kept = learner.state.parts.setdefault(self.key, {"kept": []})["kept"]
        for task in tasks:
            examples = task.examples("train")
            draw = random.Random(derive(learner.state.seed, self.key, learner.task_number, task.name))
            rows = sorted(draw.sample(range(len(examples)), self.size(len(examples))))
            texts = [_written(examples[row]) for row in rows]
            kept.append({"task": task.name, "rows": rows, "examples": texts})

    def size(self, rows: int) -> int:
        """How many of so many rows are kept."""
        if self.per_task is not None:
            return min(self.per_task, rows)
        if self.fraction == 0:
            return 0
        # The decimal number as it was written: in floating point 0.29 * 100 is less than 29.
        return max(1, int(Fraction(repr(self.fraction)) * rows))


def _written(example: Example) -> list[Any]:
    """As plain values, from which ``_example`` makes it again."""
    texts = [example.before, example.text, example.after, example.target]
    if example.turns:
        return [*texts, example.kind, [list(turn) for turn in example.turns]]
    return texts if example.kind == "answer" else [*texts, example.kind]


def _example(values: Sequence[Any], task: str) -> Example:
    turns = tuple(Turn(*turn) for listed in values[5:] for turn in listed)
    return replace(Example(*values[:5], task=task), turns=turns)
