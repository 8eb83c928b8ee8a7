"""Routings that infer a row's task by statistics of the bare host's states, and answer it by that task's slot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter
from nacre.adapters.route import Route
from nacre.models.pooled_states import PooledStates
from nacre.parts.open_classes import open_classes
from nacre.parts.part import LearnerView, Reading, Routing
from nacre.parts.slots_of_tasks import note_tasks, slots_of_tasks, tasks_being_learned
from nacre.tasks.task import Task

TaskLabels = list[tuple[str, str]]
"""Labels, each with its task."""


@dataclass(frozen=True)
class InferredTask(Routing, ABC):
    """A row is answered by the slot of the task that its bare state shows.

    While a task is learned, its rows come with it. In an encoder-only host with one growing head, only labels of a
    row's slot may answer; while a task is learned, only its own.

    Attributes:
        states: z, of the bare host.
        batch_size: Rows of a task that are read at once, after it has been learned.
    """

    states: PooledStates
    batch_size: int = 32

    def objection(self, adapter: Adapter) -> str | None:
        return None if adapter.weighable else "it chooses among slots, one for each task; inc_lora has them"

    def chooses_task(self, adapter: Adapter) -> bool:
        return True

    @final
    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        note_tasks(learner, tasks)

    @abstractmethod
    def answer(self, learner: LearnerView, known: Any, states: Tensor) -> Route:
        """The slot of each row, or the weights of the adapter's slots, for rows with the bare states [B, d].

        Args:
            learner: Who asks.
            known: What the routing remembers.
            states: z.
        """

    def labels_of_slots(self, learner: LearnerView, known: Any) -> list[TaskLabels] | None:
        """The labels of each slot that has been learned, oldest first; None: any label may answer any row.

        Args:
            learner: Who asks.
            known: What the routing remembers; None before it remembers anything.
        """
        forms = learner.state.forms
        return [[(task, label) for label in forms[task].labels or ()] for task in learner.state.tasks]

    @final
    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        """The slot of a row's own task where that is given, in training; else what the states tell."""
        if learner.adapter.tasks == 0:
            return None
        assert self.State is not None
        known = learner.remembered(self, self.State)
        if all(reading.tasks):
            route = Route(slots=torch.tensor(slots_of_tasks(learner, reading.tasks)))
        elif known is None:
            return None
        else:
            route = self.answer(learner, known, reading.query(self.states))
        return replace(route, classes=self._open_classes(learner, known, route))

    def _open_classes(self, learner: LearnerView, known: Any, route: Route) -> Tensor | None:
        """The head's classes that are labels of each row's slot [B, C]; of a slot without labels, all."""
        before = self.labels_of_slots(learner, known)
        if before is None:
            return None
        slots = route.likeliest_slots.to(learner.host.device, non_blocking=True)
        likeliest = F.one_hot(slots, learner.adapter.tasks)
        return open_classes(learner, [*before, labels_of(tasks_being_learned(learner))], likeliest)


def labels_of(tasks: Sequence[Task]) -> TaskLabels:
    """The tasks' labels, each with its task."""
    return [(task.name, label) for task in tasks for label in task.labels or ()]
