"""Which slots answer a row, by the task posterior of the sums over the tasks' rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.gated import Gated, PlacedGated
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.functional.grouped_evidence import gathered, largest_shares
from nacre.parts.class_evidence import TaskLabel
from nacre.parts.evidence_posterior import posterior, texts_of
from nacre.parts.evidence_sums import USUAL, ReadsSums, Sums, SumsSettings, Views
from nacre.parts.open_classes import open_classes
from nacre.parts.part import LearnerView, Reading, Routing
from nacre.parts.slots_of_tasks import note_tasks, slots_of_tasks
from nacre.tasks.task import Task

LEAST = -20.0
"""log p of a task is not taken to be less."""


@dataclass(frozen=True)
class GaussianRouting(ReadsSums, Routing):
    """Slots are weighted by p(task | x). With gated slots log p(task | x) is added to the gates' scores.

    In training each row of slots with weights is answered by its own task's slot; gates see the posterior of the tasks
    up to the one being learned, as they do at test.

    Attributes:
        sums: How the sums are made and read.
        views: What the sums read of a row.
        top: m: the slots of so many likeliest tasks are mixed, by their share of p; None: all of them.
        zero_score: Of gates: what is added to the zero LoRA's score.
    """

    sums: SumsSettings = USUAL
    views: Views = "both"
    top: int | None = 1
    zero_score: float = -4.0

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise RecipeError(f"top: {self.top} is not a positive number of tasks; null mixes all of them.")

    def objection(self, adapter: Adapter) -> str | None:
        if adapter.weighable or isinstance(adapter, Gated):
            return None
        return "it weights slots, one for each task; inc_lora and am_lora have them"

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        note_tasks(learner, tasks)
        super().prepare(learner, tasks)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        slots = learner.adapter.tasks
        known = learner.remembered(self, Sums)
        if slots == 0 or known is None:
            return None
        if isinstance(learner.adapter, PlacedGated):
            return Route(score_offsets=self._offsets(self._log_shares(learner, known, reading)))
        if all(reading.tasks):
            route = Route(slots=torch.tensor(slots_of_tasks(learner, reading.tasks)))
        else:
            shares = self._log_shares(learner, known, reading)
            route = Route(slots=shares.argmax(-1)) if self.top == 1 else self._mixed(shares)
        weights = route.as_weights(slots)
        assert weights is not None
        answering = weights.to(learner.host.device, non_blocking=True) > 0
        return replace(route, classes=open_classes(learner, _labels_of_slots(learner, known), answering))

    def _mixed(self, shares: Tensor) -> Route:
        return Route(largest_shares(shares, self.top or shares.shape[1]).to(torch.float32))

    def _log_shares(self, learner: LearnerView, known: Sums, reading: Reading) -> Tensor:
        """log p of each slot's tasks [B, t]; -inf of a slot whose tasks no sum is of."""
        solved = posterior(learner, self.sums, known)
        states = {text: reading.query(self.sums.states(learner, text)).double() for text in texts_of(self.views)}
        names = [own.task for own in known.tasks]
        of_tasks = solved.of_tasks(solved.log_evidence(states, self.views), names)
        owners = torch.tensor(slots_of_tasks(learner, names), device=of_tasks.device)
        return gathered(of_tasks, owners, learner.adapter.tasks, by_sum=True)

    def _offsets(self, shares: Tensor) -> Tensor:
        """What is added to the zero LoRA's score and to the slots' [B, 1 + t]."""
        zero = shares.new_full((len(shares), 1), self.zero_score)
        return torch.cat([zero, shares.clamp(min=LEAST)], 1).to(torch.float32)


def _labels_of_slots(learner: LearnerView, known: Sums) -> list[list[TaskLabel]]:
    """Each slot's labels, each with its task; [] of a slot with a task that has none."""
    pairs: list[list[TaskLabel]] = [[] for _ in range(learner.adapter.tasks)]
    owners = slots_of_tasks(learner, [own.task for own in known.tasks])
    for owner, own in zip(owners, known.tasks, strict=True):
        pairs[owner] += [mean.pair for mean in own.bare.means if mean.label]
    return pairs
