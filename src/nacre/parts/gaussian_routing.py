"""Which slots answer a row, by the task posterior of the sums over the tasks' rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter
from nacre.adapters.gated import Gated, PlacedGated
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.functional.grouped_evidence import gathered, largest_shares
from nacre.functional.segments import NONE
from nacre.parts.abstention import FOREIGN, Abstention, assess
from nacre.parts.class_evidence import TaskLabel
from nacre.parts.evidence_posterior import landmarks_of, posterior
from nacre.parts.evidence_sums import USUAL, ReadsSums, Sums, SumsSettings, Views
from nacre.parts.landmarks import Landmarks
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
        abstention: Which rows are left to the bare host; None: none.
    """

    sums: SumsSettings = USUAL
    views: Views = "both"
    top: int | None = 1
    zero_score: float = -4.0
    abstention: Abstention | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise RecipeError(f"top: {self.top} is not a positive number of tasks; null mixes all of them.")

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, Gated) and adapter.keep_gates is not None:
            return "keep_gates leaves tasks out by gates that no offset has been added to; take keep_gates=null"
        if isinstance(adapter, Gated) and self.abstention is not None and not adapter.zero_lora:
            return "foreign rows are left to the zero LoRA, which zero_lora=false takes away"
        if adapter.weighable or isinstance(adapter, Gated):
            return None
        return "it weights slots, one for each task; inc_lora and am_lora have them"

    def chooses_task(self, adapter: Adapter) -> bool:
        return self.top == 1 and adapter.weighable

    def infers_task(self, adapter: Adapter) -> bool:
        return adapter.weighable

    def landmarks(self, learner: LearnerView) -> Landmarks | None:
        return landmarks_of(learner, self.sums, learner.remembered(self, Sums), self.views)

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        note_tasks(learner, tasks)
        super().prepare(learner, tasks)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        slots = learner.adapter.tasks
        known = learner.remembered(self, Sums)
        if slots == 0 or known is None:
            return None
        labels = _labels_of_slots(learner, known)
        if all(reading.tasks) and not isinstance(learner.adapter, PlacedGated):
            own = torch.tensor(slots_of_tasks(learner, reading.tasks))
            answering = F.one_hot(own.to(learner.host.device, non_blocking=True), slots)
            return Route(slots=own, classes=open_classes(learner, labels, answering))
        shares, foreign = self._read(learner, known, reading)
        if isinstance(learner.adapter, PlacedGated):
            return Route(score_offsets=self._offsets(shares, foreign))
        weights = largest_shares(shares, self.top or slots).masked_fill(foreign.unsqueeze(1), 0)
        classes = open_classes(learner, labels, weights > 0)
        if self.top == 1:
            return Route(slots=weights.argmax(1).masked_fill(foreign, NONE), classes=classes)
        return Route(weights.to(torch.float32), classes=classes)

    def _read(self, learner: LearnerView, known: Sums, reading: Reading) -> tuple[Tensor, Tensor]:
        """log p of each slot's tasks [B, t], -inf of a slot whose tasks no sum is of; which rows are foreign [B]."""
        solved = posterior(learner, self.sums, known)
        learns = all(reading.tasks)  # nothing that is being learned is foreign
        assessed = assess(
            solved,
            known,
            lambda text: reading.query(self.sums.states(learner, text)).double(),
            self.views,
            None if learns else self.abstention,
            reading.query.lengths,
            reading.texts,
        )
        names = [own.task for own in known.tasks]
        owners = torch.tensor(slots_of_tasks(learner, names), device=assessed.pairs.device)
        of_tasks = solved.of_tasks(assessed.pairs, names)
        return gathered(of_tasks, owners, learner.adapter.tasks, by_sum=True), assessed.kinds == FOREIGN

    def _offsets(self, shares: Tensor, foreign: Tensor) -> Tensor:
        """What is added to the zero LoRA's score and to the slots' [B, 1 + t]."""
        zero = shares.new_full((len(shares), 1), self.zero_score)
        slots = shares.clamp(min=LEAST).masked_fill(foreign.unsqueeze(1), -torch.inf)
        return torch.cat([zero, slots], 1).to(torch.float32)


def _labels_of_slots(learner: LearnerView, known: Sums) -> list[list[TaskLabel]]:
    """Each slot's labels, each with its task; [] of a slot with a task that has none."""
    pairs: list[list[TaskLabel]] = [[] for _ in range(learner.adapter.tasks)]
    owners = slots_of_tasks(learner, [own.task for own in known.tasks])
    for owner, own in zip(owners, known.tasks, strict=True):
        pairs[owner] += [mean.pair for mean in own.bare.means if mean.label]
    return pairs
