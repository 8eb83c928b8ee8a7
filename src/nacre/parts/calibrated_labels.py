"""CoDe-LoRA's answers without its branch: an expert's label scores, without the prior that it has for its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nacre.functional.label_fusion import without_prior
from nacre.functional.label_rules import prior_offsets
from nacre.models.families import Encoded
from nacre.parts.expert_labels import ExpertLabels
from nacre.parts.part import LearnerView
from nacre.tasks.task import Task


@dataclass(frozen=True)
class LabelPriors:
    """What is remembered.

    Attributes:
        of_tasks: log q of each task's labels up to a constant [L], by the task's name.
    """

    of_tasks: dict[str, Tensor]


@dataclass(frozen=True)
class CalibratedLabels(ExpertLabels):
    """The label with the largest log p(c | x) - log q(c), q the mean of p over the task's validation rows.

    No row is kept: q is measured once, when the task has been learned, in its own slot. What that slot writes does not
    change. In an encoder-only host with one growing head it does where a later task has a label of the same name.

    State: `LabelPriors`.
    """

    State: ClassVar[type[LabelPriors]] = LabelPriors

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Measure q of the new tasks."""
        for task in tasks:
            known = dict(self._known(learner))
            known.pop(task.name, None)
            if rows := learner.encode(self.held_out(learner, task)):
                scores = self.expert_scores(learner, learner.adapter.tasks - 1, rows, task.labels or ())
                known[task.name] = prior_offsets(scores, 0)
            learner.remember(self, LabelPriors(known))

    def scores(
        self, learner: LearnerView, task: str, slot: int, rows: Sequence[Encoded], labels: Sequence[str]
    ) -> Tensor:
        """log p, without the prior where it is known."""
        scores = self.expert_scores(learner, slot, rows, labels)
        prior = self._known(learner).get(task)
        return scores if prior is None else without_prior(scores, prior)

    def _known(self, learner: LearnerView) -> dict[str, Tensor]:
        state = learner.remembered(self, LabelPriors)
        return {} if state is None else state.of_tasks
