"""DAS's contrast: what the whole network makes of a row is kept apart from what earlier knowledge alone makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.features.units import gated, unit_sites
from nacre.functional.soft_masks import contrast, mean_over_tokens
from nacre.models.last_states import last_states
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch
from nacre.parts.soft_mask import SoftMaskState
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task


@dataclass(frozen=True)
class KnowledgeContrast(BatchTerm):
    """strength * a contrastive loss of the rows' mean last states: two passes with dropout are alike, others are not.

    Others are the micro-batch's other rows, and all of its rows with each unit multiplied by its importance for earlier
    knowledge, which `SoftMask` measures. All three passes are one batch. Where the weight is 0, nothing is computed.

    Attributes:
        strength: Weight of the term.
        temperature: What cosines are divided by.
    """

    State: ClassVar[type[SoftMaskState]] = SoftMaskState
    remembers: ClassVar[str] = "soft_mask"
    changes_passes: ClassVar[bool] = True

    strength: PerTask = 1.0
    temperature: float = 0.05

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the contrast")
        if not self.temperature > 0:
            raise RecipeError(f"temperature: {self.temperature} is not positive; cosines are divided by it.")

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.resources[self.key] = unit_sites(learner.host.body)

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        """The mean over the step's rows, each contrasted with those of its micro-batch, times target tokens, []."""
        remembered = learner.remembered(self, SoftMaskState)
        if self.weight(learner.task_number) == 0 or remembered is None:
            return torch.zeros((), device=learner.host.device)
        rows, sites = [*batch.rows], learner.resources[self.key]
        gates = {name: _gates(importance, len(rows)) for name, importance in remembered.importance.items()}
        with gated(sites, gates):
            states, counted = last_states(learner.host, rows * 3)
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        full, again, known = mean_over_tokens(wide, counted).chunk(3)
        return contrast(full, again, known, self.temperature) * (len(rows) * learner.step.tokens_per_row)


def _gates(importance: Tensor, rows: int) -> Tensor:
    """1 in the first two passes, the importance in the third."""
    open_ones = torch.ones_like(importance).expand(2 * rows, -1)
    return torch.cat([open_ones, importance.expand(rows, -1)])
