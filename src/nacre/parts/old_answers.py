"""Keeping the answers to pseudo-rows as they were before the task (LFPT5's KL loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from nacre.functional.distillation import divergence
from nacre.functional.losses import IGNORED
from nacre.models.families import Encoded
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch
from nacre.parts.written_rows import ANSWERS, PseudoState
from nacre.per_task import PerTask
from nacre.tasks.task import Task
from nacre.tasks.template import TaskKind


@final
@dataclass(frozen=True)
class OldAnswers(BatchTerm):
    """KL(p_old || p_new) at the answers of pseudo-rows, p_old as the learner answered before this task (L_kd).

    The sum over the batch's target tokens, and so like the task loss a mean over those of the step.

    Attributes:
        strength: Its weight beside a task loss of weight 1.
    """

    State: ClassVar[type[PseudoState]] = PseudoState
    remembers: ClassVar[str] = "pseudo_rehearsal"
    learns: ClassVar[frozenset[TaskKind]] = ANSWERS

    strength: PerTask

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        state = learner.remembered(self, PseudoState)
        examples = [] if state is None else [example for example, _ in state.examples(learner)]
        before: dict[Encoded, Tensor] = {}
        for row in learner.encode(examples):
            with torch.no_grad():
                logits, labels = learner.predictions([row])
            before[row] = logits[labels != IGNORED]
        learner.resources[self.key] = before

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        before: dict[Encoded, Tensor] = learner.resources[self.key]
        logits = batch.logits[batch.labels != IGNORED]
        own = torch.split(logits, [row.num_target_tokens for row in batch.rows])
        pairs = [(before[row], live) for row, live in zip(batch.rows, own, strict=True) if row in before]
        if not pairs:
            return batch.logits.new_zeros((), dtype=torch.float32)
        old, live = (torch.cat(each) for each in zip(*pairs, strict=True))
        return divergence(old, live, temperature=1.0)
