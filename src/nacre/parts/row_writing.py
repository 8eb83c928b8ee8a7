"""Learning to write the rows that are learned, so that they can be rehearsed later (LFPT5's language-model loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from nacre.models.families import Encoded
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch
from nacre.parts.wording import Wording
from nacre.parts.written_rows import ANSWERS, PseudoState
from nacre.per_task import PerTask
from nacre.tasks.task import Task
from nacre.tasks.template import TaskKind


@final
@dataclass(frozen=True)
class RowWriting(BatchTerm):
    """The mean loss of a token where each of the step's rows, text and answer, is written from its task's cue (L_lm).

    Attributes:
        strength: lambda_lm.
        wording: How rows are written.
    """

    State: ClassVar[type[PseudoState]] = PseudoState
    remembers: ClassVar[str] = "pseudo_rehearsal"
    learns: ClassVar[frozenset[TaskKind]] = ANSWERS

    strength: PerTask
    wording: Wording

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        state = learner.remembered(self, PseudoState)
        rows = [] if state is None else state.examples(learner)
        for task in tasks:
            rows += zip(task.examples("train"), (row.text for row in task.train), strict=True)
        asked = learner.encode([example for example, _ in rows])
        written = [self.wording.written(learner, example.task, text, example.target) for example, text in rows]
        learner.resources[self.key] = dict(zip(asked, written, strict=True))

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        known: dict[Encoded, Encoded] = learner.resources[self.key]
        of_step = sum(known[row].num_target_tokens for row in learner.step.rows)
        total = learner.loss_sum([known[row] for row in batch.rows])
        return total * (learner.step.num_target_tokens / of_step)
