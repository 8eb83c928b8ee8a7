"""The host learns what the sums cannot say: their evidence is an offset of its scores while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.functional.label_products import offset_normalizer
from nacre.models.families import Encoded
from nacre.parts.evidence_posterior import posterior
from nacre.parts.evidence_sums import USUAL, HeldOut, ReadsSums, Sums, SumsSettings, Views
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task


@dataclass(frozen=True)
class EvidenceOffset(ReadsSums, BatchTerm):
    """strength * sum over rows of (log sum_y exp(log p_host(y | x) + e(y | x)) - e(target | x)), y the task's labels.

    With a strength of 1, and without dropout, it makes the loss the labels' cross-entropy under both opinions:
    -log p_host(target) is the task loss. e is held out: the sums that it is of do not hold the row. Rows of tasks
    without labels, and rows that a memory brings back, have none.

    Attributes:
        strength: How much the other labels count.
        sums: How the sums are made and read.
        views: What the sums read of a row.
    """

    strength: PerTask = 1.0
    sums: SumsSettings = USUAL
    views: Views = "both"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the offset")

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        known = learner.remembered(self, Sums)
        assert known is not None
        temperature = posterior(learner, self.sums, known).temperatures[self.views]
        held_out = self.held_out(learner, tasks)
        learner.resources[self.key] = {
            task.name: LabelOffsets.of(held_out[task.name], task.labels, self.views, temperature)
            for task in tasks
            if task.labels
        }

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        """The term [], with the graph of the host's scores; 0 without a row of the task."""
        offsets: dict[str, LabelOffsets] = learner.resources[self.key]
        total = torch.zeros((), device=learner.host.device)
        for name, own in offsets.items():
            numbers = [number for number, row in enumerate(batch.rows) if row.task == name and own.knows(row)]
            if numbers:
                rows = [batch.rows[number] for number in numbers]
                route = None if batch.route is None else batch.route.rows(numbers)
                scores = learner.label_scores(rows, own.labels, route)
                total = total + offset_normalizer(scores, *own.of_rows(rows))
        return total


@dataclass(frozen=True, eq=False)
class LabelOffsets:
    """The held-out evidence of a task's training rows.

    Attributes:
        labels: The task's.
        numbers: The number of each row, by what is read of it.
        evidence: e / T [n, L].
    """

    labels: tuple[str, ...]
    numbers: Mapping[tuple[tuple[int, ...], str | None], int]
    evidence: Tensor

    @classmethod
    def of(cls, held_out: HeldOut, labels: tuple[str, ...], views: Views, temperature: float) -> LabelOffsets:
        """Those of one task, -inf of a label that no row has."""
        found = held_out.found[views] / temperature
        found = found if held_out.said is None else found + held_out.said
        evidence = found.new_full((len(found), len(labels)), -torch.inf)
        evidence[:, [labels.index(label) for label in held_out.labels]] = found
        return cls(labels, held_out.numbers, evidence)

    def knows(self, row: Encoded) -> bool:
        """Whether it is one of the task's training rows, and not what a memory adds."""
        return (row.source, row.bare) in self.numbers

    def of_rows(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """e / T of these rows [B, L], and the numbers of their targets [B]."""
        numbers = [self.numbers[row.source, row.bare] for row in rows]
        targets = [self.labels.index(row.example.target) for row in rows if row.example is not None]
        return self.evidence[numbers], torch.tensor(targets, device=self.evidence.device)
