"""SAPT's attentive reflection: on inputs of earlier tasks the attention stays where those tasks left it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Attended:
    """What is kept of each learned task, oldest first.

    Attributes:
        inputs: e of kept inputs [n, d]: all that the attention sees of them.
        means: abar [t], the mean attention of the task's training inputs when it had been learned.
    """

    inputs: list[Tensor]
    means: list[Tensor]


@final
@dataclass(frozen=True)
class KeptInputs(Memory):
    """Keep some inputs of each task, without answers, for `Reflection`; none is learned again.

    State: `Attended`.

    Attributes:
        fraction: The share of a task's inputs to keep, drawn at random; at least one, unless it is 0.
        batch_size: Rows that are read at once.
    """

    State: ClassVar[type[Attended]] = Attended
    mixed: ClassVar[bool] = False

    fraction: float = 0.02
    batch_size: int = 256

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
        rows = learner.encode([example for task in tasks for example in task.examples("train")])
        read = [
            learner.pooled_states(rows[start : start + self.batch_size], LARGEST_WORD)
            for start in range(0, len(rows), self.batch_size)
        ]
        inputs = torch.cat(read)
        attended = attention_of(learner).scores(inputs, learner.adapter.tasks).softmax(-1)
        draw = random.Random(derive(learner.state.seed, self.key, learner.task_number))
        kept = sorted(draw.sample(range(len(rows)), self.size(len(rows))))
        before = learner.remembered(self, Attended) or Attended([], [])
        state = Attended([*before.inputs, inputs[kept].clone()], [*before.means, attended.mean(0)])
        learner.remember(self, state)


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
        for inputs, mean in zip(known.inputs, known.means, strict=True):
            targets.append(F.pad(mean, (0, slots - len(mean))).expand(len(inputs), -1))
            shares.append(inputs.new_full((len(inputs),), 1 / len(inputs)))
        learner.resources[self.key] = torch.cat(known.inputs), torch.cat(targets), torch.cat(shares)

    def value(self, learner: LearnerView) -> Tensor:
        """[]; 0 without a graph where no input was kept."""
        if self.key not in learner.resources:
            return torch.zeros((), device=learner.host.device)
        inputs, targets, shares = learner.resources[self.key]
        return reflection(attention_of(learner).scores(inputs, targets.shape[1]), targets, shares)
