"""A new task begins where the nearest earlier ones ended, if rows of it say that this is a better place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from nacre.adapters.adapter import Adapter
from nacre.adapters.gated import PlacedGated
from nacre.adapters.route import Route
from nacre.adapters.slotted import low_rank_in, why_no_past
from nacre.events import StartChosen
from nacre.functional.sensitivity import Triplets, averaged_triplets
from nacre.models.evaluating import evaluating
from nacre.parts.evidence_posterior import posterior, texts_of
from nacre.parts.evidence_sums import USUAL, ReadsSums, Sums, SumsSettings, Views
from nacre.parts.measured_sensitivity import through_triplets
from nacre.parts.part import LearnerView, Start
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.parts.start import Fresh
from nacre.settings import check_positive
from nacre.tasks.task import Task
from nacre.tasks.template import Example

StartKind = Literal["fresh", "nearest", "mean"]

StartFactors = Mapping[str, Triplets]
"""Of each site, by its name: what is written into the newest slot."""


@dataclass(frozen=True)
class WarmStart(ReadsSums, Start):
    """The new slot begins afresh, as a copy of the nearest task's, or as an average of the nearest ones'.

    The distance of two tasks is that of the means of their rows, by the sums' covariance. The average is weighted by
    the sensitivities of `SensitivityStart`, measured on rows of the new task while the nearest slots answer in equal
    shares. Of the three, the one with the least loss on the new task's validation rows is taken; those are not kept.

    Attributes:
        sums: How the sums are made and read.
        views: What the sums read of a row.
        begin_with: 'held_out', as above; or always the same one.
        nearest: How many tasks are averaged, at most.
        held_out_rows: How many validation rows are read, at most.
        seed_samples: Rows that sensitivities are measured on.
    """

    sums: SumsSettings = USUAL
    views: Views = "both"
    begin_with: Literal["held_out"] | StartKind = "held_out"
    nearest: int = 3
    held_out_rows: int = 64
    seed_samples: int = 8

    def __post_init__(self) -> None:
        for name in ("nearest", "held_out_rows", "seed_samples"):
            check_positive(name, getattr(self, name))

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_past(adapter)

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        if learner.task_number == 1 or self.begin_with == "fresh":
            Fresh().fill(learner, tasks)
            return
        order = self._order(learner, tasks)
        mean = self._mean(learner, tasks, order[: self.nearest])  # while the new slot is all zeros
        Fresh().fill(learner, tasks)
        starts: dict[StartKind, StartFactors | None] = {
            "fresh": None,
            "nearest": _past(learner, order[0]),
            "mean": mean,
        }
        examples = [example for task in tasks for example in task.examples("validation")][: self.held_out_rows]
        losses: dict[str, float] = {}
        chosen: StartKind = "fresh" if self.begin_with == "held_out" else self.begin_with
        if self.begin_with == "held_out" and examples:
            for name, start in starts.items():  # the fresh one is there
                if start is not None:
                    _write(learner, start)
                losses[name] = self._loss(learner, examples)
            chosen = min(starts, key=losses.__getitem__)
        if (start := starts[chosen]) is not None:
            _write(learner, start)
        elif losses:
            Fresh().fill(learner, tasks)  # again, over the last one that was tried
        read = {"fresh": 0, "nearest": 1, "mean": self.nearest}[chosen]
        names = [learner.state.tasks[slot] for slot in order[:read]]
        learner.on_event(StartChosen(start=chosen, tasks=names, losses=losses))

    def _order(self, learner: LearnerView, tasks: Sequence[Task]) -> list[int]:
        """The slots of earlier tasks, the nearest first; of equally near ones, the newest."""
        known = learner.remembered(self, Sums)
        assert known is not None
        solved = posterior(learner, self.sums, known)
        new = {task.name for task in tasks}
        newest_slots = {name: slot for slot, name in enumerate(learner.state.tasks)}
        earlier = list(newest_slots)
        away = torch.zeros(len(earlier), dtype=torch.float64)
        for text in texts_of(self.views):
            centers = {own.task: own.view(text).center() for own in known.tasks}
            factor, _ = solved.solved[text]
            here = torch.stack([centers[name] for name in sorted(new)]).mean(0)
            away += ((torch.stack([centers[name] for name in earlier]) - here) @ factor).square().sum(1).cpu()
        slots = list(newest_slots.values())
        return [slots[number] for number in sorted(range(len(earlier)), key=lambda n: (float(away[n]), -slots[n]))]

    def _mean(self, learner: LearnerView, tasks: Sequence[Task], slots: Sequence[int]) -> StartFactors:
        """The average of these slots, weighted by sensitivities."""
        adapter = low_rank_in(learner.adapter)
        measured = SensitivityStart(self.seed_samples)
        rows = learner.encode(measured.seed_rows(learner, tasks))
        tokens = sum(row.num_target_tokens for row in rows)
        weights = torch.zeros(len(rows), learner.adapter.tasks, device=learner.host.device)
        weights[:, list(slots)] = 1 / len(slots)
        gated = isinstance(adapter, PlacedGated)  # it weights its slots itself
        weighed = nullcontext() if gated else learner.under(Route(weights))
        with through_triplets(adapter, list(adapter.sites)) as found, evaluating(learner.host.model), weighed:
            torch.autograd.backward(learner.loss_sum(rows) / tokens, inputs=found.leaves)
            found.add()
        numbers = list(slots)
        means = {}
        for name, site in adapter.sites.items():
            past = Triplets(**{group: stack[numbers] for group, stack in site.past_by_group().items()})
            means[name] = averaged_triplets(past, found.sensitivities[name][numbers], align=True)
        return means

    def _loss(self, learner: LearnerView, examples: Sequence[Example]) -> float:
        """The mean loss of a target token of these rows, as the newest slot is now."""
        rows = learner.encode(examples)
        size = self.sums.batch_size
        with torch.no_grad(), evaluating(learner.host.model):
            sums = [float(learner.loss_sum(rows[start : start + size])) for start in range(0, len(rows), size)]
        return sum(sums) / max(sum(row.num_target_tokens for row in rows), 1)


def _past(learner: LearnerView, slot: int) -> StartFactors:
    """What an earlier slot holds."""
    sites = low_rank_in(learner.adapter).sites.items()
    return {
        name: Triplets(**{group: stack[slot] for group, stack in site.past_by_group().items()}) for name, site in sites
    }


def _write(learner: LearnerView, start: StartFactors) -> None:
    """Put it into the newest slot."""
    sites = low_rank_in(learner.adapter).sites
    for name, factors in start.items():
        sites[name].write(factors)
