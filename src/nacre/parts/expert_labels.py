"""A label is answered by the scores of the expert that the routing chooses, among the labels of one task."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.route import Route
from nacre.errors import DataError, RecipeError
from nacre.events import Warned
from nacre.models.families import Encoded
from nacre.parts.discriminant_routing import DiscriminantRouting
from nacre.parts.kept_states import kept_states
from nacre.parts.part import LearnerView, Readout
from nacre.parts.shared_gaussians import Gaussians
from nacre.seeds import derive
from nacre.settings import check_positive
from nacre.tasks.task import Task
from nacre.tasks.template import Example

CalibrationKey = Literal["routed_task", "true_task"]
"""Whose labels, and whose numbers, a row is answered with: the task that the routing says, or its own."""


@dataclass(frozen=True)
class ExpertLabels(Readout, ABC):
    """The best label of the routed task, or of the row's own, by the scores of the routed task's slot.

    A row that is routed to a task without labels is answered with what that task's slot writes.

    Attributes:
        routing: The method's.
        calibration_key: Whose labels compete.
        rows: Validation rows of a task that are read, drawn by the seed; None: all.
        batch_size: Validation rows that are read at once.
    """

    routing: DiscriminantRouting
    calibration_key: CalibrationKey = "routed_task"
    rows: int | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.rows is not None:
            check_positive("calibration_rows", self.rows)

    @property
    def needs_boundaries(self) -> bool:
        return True

    @property
    def needs_task_at_test(self) -> bool:
        return self.calibration_key == "true_task"

    def objection(self, adapter: Adapter) -> str | None:
        return None if adapter.weighable else "it reads the scores of a slot alone, and here tasks have none"

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.labels and task.validation and task.validation == task.test:
                raise DataError(
                    f"The validation rows of task '{task.name}' are measured, and its labels would be calibrated by "
                    "them: measure test rows, or take fusion=none."
                )
        head = learner.host.family.head
        if head is not None and head.kind == "per_task" and not self.needs_task_at_test:
            raise RecipeError(
                "calibration_key: a head for each task knows only the labels of a row's own one; take true_task, or "
                "head=growing."
            )

    @abstractmethod
    def scores(
        self, learner: LearnerView, task: str, slot: int, rows: Sequence[Encoded], labels: Sequence[str]
    ) -> Tensor:
        """How well each label fits each row [B, L].

        Args:
            learner: Whose host reads.
            task: The task that the labels are of.
            slot: The slot that answers the rows.
            rows: The rows.
            labels: The labels.
        """

    @final
    @torch.no_grad()
    def classify(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
        """See `Readout`. The labels that are offered are looked at only for a task that was not learned.

        Raises:
            RecipeError: Labels of the rows' own tasks are to be chosen from, and none are given.
        """
        if self.needs_task_at_test and labels is None:
            raise RecipeError(
                "calibration_key: with true_task an answer is one of the labels of the row's own task: take "
                "decode=labels."
            )
        known = learner.remembered(self.routing, Gaussians)
        if known is None:
            return _by_host(learner, rows, labels)
        chosen = self.routing.answer(learner, known, kept_states(learner, rows, self.routing.states)).slots
        assert chosen is not None
        slots = chosen.tolist()
        owners = [
            (row.task if self.needs_task_at_test else learner.state.tasks[slot], slot)
            for row, slot in zip(rows, slots, strict=True)
        ]
        answers = [""] * len(rows)
        for task, slot in dict.fromkeys(owners):
            numbers = [number for number, owner in enumerate(owners) if owner == (task, slot)]
            own = self._answers(learner, task, slot, [rows[number] for number in numbers], labels)
            for number, answer in zip(numbers, own, strict=True):
                answers[number] = answer
        return answers

    def _answers(
        self, learner: LearnerView, task: str, slot: int, rows: Sequence[Encoded], offered: Sequence[str] | None
    ) -> list[str]:
        form = learner.state.forms.get(task)
        labels = offered if form is None else form.labels
        if not labels:
            with learner.under(_alone(slot)):
                return _by_host(learner, rows, None)
        best = self.scores(learner, task, slot, rows, labels).argmax(1)
        return [labels[number] for number in best.tolist()]

    @final
    def held_out(self, learner: LearnerView, task: Task) -> list[Example]:
        """The task's validation rows that are read; none of a task without labels."""
        if not task.labels:
            return []
        examples = task.examples("validation")
        if not examples:
            text = f"'{task.name}' has no validation rows: its labels' scores are taken as they are, prior included."
            learner.on_event(Warned(text))
        if self.rows is None or len(examples) <= self.rows:
            return list(examples)
        drawn = random.Random(derive(learner.state.seed, self.key, task.name))
        return [examples[number] for number in sorted(drawn.sample(range(len(examples)), self.rows))]

    @final
    def expert_scores(self, learner: LearnerView, slot: int, rows: Sequence[Encoded], labels: Sequence[str]) -> Tensor:
        """log p of each label in one slot alone [n, L], in float64."""
        with learner.under(_alone(slot)):
            return self.read(learner, rows, labels)

    @final
    def read(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str]) -> Tensor:
        """log p of each label as the learner computes now [n, L], in float64."""
        size = self.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return torch.cat([learner.label_scores(batch, labels).double() for batch in batches])


def _alone(slot: int) -> Route:
    """Every row is answered by this slot, however many there are."""
    return Route(slots=torch.tensor([slot]))


def _by_host(learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
    """What the host answers as it computes now, of these labels or freely; nothing, if it can only classify."""
    if not learner.host.family.is_generative:
        return [""] * len(rows)
    if labels is None:
        return learner.write(rows)
    return [labels[number] for number in learner.label_scores(rows, labels).argmax(1).tolist()]
