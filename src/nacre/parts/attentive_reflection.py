"""SAPT's attentive reflection: on inputs of earlier tasks the attention stays where those tasks left it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.functional.shared_attention import reflection
from nacre.parts.part import LearnerView, Memory, Penalty
from nacre.parts.rehearsal import Rehearsal
from nacre.parts.shared_attention import LARGEST_WORD, attention_of
from nacre.per_task import PerTask, check_not_negative
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example

READ_AT_ONCE = 256
"""Rows whose word embeddings are read as one batch."""


@dataclass(frozen=True)
class Attended:
    """What is kept of each learned task, oldest first.

    Attributes:
        inputs: e of inputs [n, d], real or written: all that the attention sees of them.
        means: abar [t], the mean attention of the task's training inputs when it had been learned.
        written: Of inputs that are written, task, text and answer of each row that was written for the newest task.
        sizes: Of these, how many are to be kept of each task.
    """

    inputs: list[Tensor]
    means: list[Tensor]
    written: list[list[str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def words_of(learner: LearnerView, examples: Sequence[Example]) -> Tensor:
    """e of the examples' inputs, [n, d]; of none, [0, 0]."""
    rows = learner.encode(examples)
    read = [
        learner.pooled_states(rows[start : start + READ_AT_ONCE], LARGEST_WORD)
        for start in range(0, len(rows), READ_AT_ONCE)
    ]
    return torch.cat(read) if read else torch.zeros(0, 0, device=learner.host.device)


def mean_attention(learner: LearnerView, inputs: Tensor) -> Tensor:
    """abar [t] of inputs' e [n, d], as the learner attends now."""
    return attention_of(learner).scores(inputs, learner.adapter.tasks).softmax(-1).mean(0)


@final
@dataclass(frozen=True)
class KeptInputs(Memory):
    """Keep some inputs of each task, without answers, for `Reflection`; none is learned again.

    State: `Attended`.

    Attributes:
        fraction: The share of a task's inputs to keep, drawn at random; at least one, unless it is 0.
    """

    State: ClassVar[type[Attended]] = Attended
    mixed: ClassVar[bool] = False

    fraction: float = 0.02

    def __post_init__(self) -> None:
        Rehearsal(self.fraction)  # refuses what cannot be a share

    def size(self, rows: int) -> int:
        """Number of inputs kept of a task with this many rows."""
        return Rehearsal(self.fraction).size(rows)

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        """None: answers are not kept."""
        return []

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        inputs = words_of(learner, [example for task in tasks for example in task.examples("train")])
        draw = random.Random(derive(learner.state.seed, self.key, learner.task_number))
        kept = sorted(draw.sample(range(len(inputs)), self.size(len(inputs))))
        before = learner.remembered(self, Attended) or Attended([], [])
        means = [*before.means, mean_attention(learner, inputs)]
        learner.remember(self, Attended([*before.inputs, inputs[kept].clone()], means))


@final
@dataclass(frozen=True)
class Reflection(Penalty):
    """strength * sum over earlier tasks of the mean over their kept inputs of KL(abar_i || a).

    Attributes:
        strength: lambda.
    """

    State: ClassVar[type[Attended]] = Attended
    remembers: ClassVar[str] = "kept_inputs"

    strength: PerTask = 0.1

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the reflection")

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        known = learner.remembered(self, Attended)
        if known is None or not sum(len(inputs) for inputs in known.inputs):
            return
        slots = learner.adapter.tasks
        targets, shares = [], []
        kept = [(inputs, mean) for inputs, mean in zip(known.inputs, known.means, strict=True) if len(inputs)]
        for inputs, mean in kept:
            targets.append(F.pad(mean, (0, slots - len(mean))).expand(len(inputs), -1))
            shares.append(inputs.new_full((len(inputs),), 1 / len(inputs)))
        learner.resources[self.key] = torch.cat([inputs for inputs, _ in kept]), torch.cat(targets), torch.cat(shares)

    def value(self, learner: LearnerView) -> Tensor:
        """[]; 0 without a graph where no input was kept."""
        if self.key not in learner.resources:
            return torch.zeros((), device=learner.host.device)
        inputs, targets, shares = learner.resources[self.key]
        return reflection(attention_of(learner).scores(inputs, targets.shape[1]), targets, shares)
