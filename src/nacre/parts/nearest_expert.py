"""DEMIX's start: a new domain's adapter begins as a copy of the earlier one that models the domain best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.bottleneck import Bottleneck, PlacedBottleneck
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.models.families import Encoded
from nacre.parts.part import LearnerView, Start
from nacre.seeds import derive
from nacre.tasks.task import Task

READ_AT_ONCE = 16


@dataclass(frozen=True)
class ExpertsTried:
    """What the start found, for people: it changes nothing.

    Attributes:
        losses: For each task from the second on, its sample's mean loss a token under each earlier adapter.
        chosen: The number of the adapter that each of these tasks began with, from 0.
    """

    losses: list[list[float]]
    chosen: list[int]


@dataclass(frozen=True)
class NearestExpert(Start):
    """The newest adapter begins as the earlier one with the least perplexity on the task's first rows.

    Every candidate predicts the same tokens: of unlabeled text the same ones are hidden for all. The perplexity is that
    of what the task trains, hidden or next tokens of a text, targets of other rows. The first task begins as usual.

    State: `ExpertsTried`.

    Attributes:
        sample: How many of the task's training rows are read, at most.
    """

    State: ClassVar[type[ExpertsTried]] = ExpertsTried

    sample: int = 10_000

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise RecipeError(f"sample: {self.sample} is not a positive number of training rows.")

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, Bottleneck) and adapter.slots == "per_task":
            return None
        return "it chooses among the bottleneck adapters of earlier tasks; demix has one for each"

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        placed = learner.adapter
        assert isinstance(placed, PlacedBottleneck)
        if placed.tasks == 1:
            placed.fresh(derive(learner.state.seed, "start", learner.task_number))
            return
        rows = self._rows(learner, tasks)
        tokens = sum(row.num_target_tokens for row in rows)
        losses = torch.stack([_loss(learner, rows, slot) for slot in range(placed.tasks - 1)]) / tokens
        chosen = int(losses.argmin())
        placed.copy_slot(chosen)
        before = learner.remembered(self, ExpertsTried) or ExpertsTried([], [])
        learner.remember(self, ExpertsTried([*before.losses, losses.tolist()], [*before.chosen, chosen]))

    def _rows(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Encoded]:
        """The first rows; of texts, chunks of the first rows."""
        examples = [example for task in tasks for example in task.examples("train")[: self.sample]]
        rows = learner.encode(examples)[: self.sample]
        where = (self.key, learner.task_number)
        return [row.with_fresh_masks(learner.state.seed, *where, number) for number, row in enumerate(rows)]


@torch.no_grad()
def _loss(learner: LearnerView, rows: Sequence[Encoded], slot: int) -> Tensor:
    """The summed loss of rows under one earlier adapter, [] in float64."""
    learner.host.model.eval()  # as it is between tasks anyway
    total = torch.zeros((), dtype=torch.float64, device=learner.host.device)
    for start in range(0, len(rows), READ_AT_ONCE):
        own = rows[start : start + READ_AT_ONCE]
        with learner.under(Route(slots=torch.full((len(own),), slot))):
            total += learner.loss_sum(own)
    return total
