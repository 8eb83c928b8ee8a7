"""Unlabeled text is predicted by all tasks' slots, mixed by their posterior; the task is not given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.route import Route
from nacre.errors import DataError, ModelError
from nacre.functional.losses import IGNORED
from nacre.functional.mixture import mixed_by_posterior
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.parts.part import LearnerView, Readout
from nacre.tasks.task import Task
from nacre.tasks.template import TaskKind


@dataclass(frozen=True)
class ExpertMixture(Readout):
    """Every slot reads a text, and the posterior of each, given the tokens so far, is its weight in the next one.

    All slots read at once, so that a text costs as many rows as there are slots.
    """

    learns: ClassVar[frozenset[TaskKind]] = frozenset({"text"})

    def objection(self, adapter: Adapter) -> str | None:
        return None if adapter.weighable else "it mixes slots, one for each task; demix has them"

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        if learner.host.family.name != "decoder-only":
            raise ModelError(
                "An expert's posterior is that of the tokens so far, which only a decoder-only host predicts from left "
                f"to right, and '{learner.host.name}' is {learner.host.family.name}: take answer_by=task."
            )

    def predictions(self, learner: LearnerView, batch: Batch) -> tuple[Tensor, Tensor] | None:
        slots, family = learner.adapter.tasks, learner.host.family
        if slots < 2:
            return None
        names = tuple(name for name in batch.task_names for _ in range(slots))
        copies = Batch({name: tensor.repeat_interleave(slots, 0) for name, tensor in batch.items()}, names)
        with learner.under(Route(slots=torch.arange(slots).repeat(batch.size))):
            logits, labels = family.predictions(learner.host.model, copies)
        each = logits.float().log_softmax(-1).view(batch.size, slots, *logits.shape[1:])
        own = labels[::slots]
        return mixed_by_posterior(each, own, own != IGNORED), own

    def classify(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
        raise DataError("Experts that are mixed by their posterior score unlabeled text, and choose among no labels.")
