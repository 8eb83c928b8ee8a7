"""CoDe-LoRA's router: the task of an input is that of the likeliest Gaussian, one for each task."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.adapters.route import Route
from nacre.models.pooled_states import PooledStates
from nacre.parts.derived import derived
from nacre.parts.inferred_task import InferredTask
from nacre.parts.pair_means import in_order
from nacre.parts.part import LearnerView
from nacre.parts.shared_gaussians import Gaussians, SharedGaussians
from nacre.parts.slots_of_tasks import slots_of_tasks
from nacre.parts.states_by_content import states_by_content
from nacre.seeds import derive
from nacre.settings import check_positive
from nacre.tasks.task import Task

MEAN_OF_TEXT = PooledStates(text="bare")


@dataclass(frozen=True)
class DiscriminantRouting(InferredTask):
    """A row is answered by the slot of the task with the largest w_i . z - w_i . m_i / 2, w_i = S^-1 m_i.

    S is pooled over all rows, each around its task's mean. Sums are exact and rows are read in the order of their
    content: the same bits in any order of rows and of tasks. All is computed in float64.

    State: `Gaussians`, a task being a pair without a label.

    Attributes:
        shrinkage: g of S, or 'oas'.
        support: Rows of a task that are read, drawn by the seed; None: all.
    """

    State: ClassVar[type[Gaussians]] = Gaussians

    states: PooledStates = MEAN_OF_TEXT
    shrinkage: float | Literal["oas"] = 0.01
    support: int | None = 1000

    def __post_init__(self) -> None:
        self._gaussians()  # checks the settings
        if self.support is not None:
            check_positive("support", self.support)

    def _gaussians(self) -> SharedGaussians:
        return SharedGaussians(self.shrinkage, covariance="rows", prior="tasks")

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Add the new tasks' rows."""
        for task in tasks:
            rows = learner.encode(task.examples("train"))  # of unlabeled text, others than the examples
            if self.support is not None and len(rows) > self.support:
                rows = random.Random(derive(learner.state.seed, self.key, task.name)).sample(rows, self.support)
            states, _ = states_by_content(learner, task.name, rows, [""] * len(rows), self.states, self.batch_size)
            known = learner.remembered(self, Gaussians)
            learner.remember(self, self._gaussians().with_classes(learner, known, task.name, {"": states}))

    def answer(self, learner: LearnerView, known: Gaussians, states: Tensor) -> Route:
        """The slot of the likeliest task."""
        tasks, directions, offsets = self._solved(learner, known)
        owners = torch.tensor(slots_of_tasks(learner, tasks), device=states.device)
        return Route(slots=owners[(states.double() @ directions + offsets).argmax(-1)])

    def _solved(self, learner: LearnerView, known: Gaussians) -> tuple[list[str], Tensor, Tensor]:
        """The tasks, sorted, with the weights [d, T] and offsets [T] of their log evidence; solved once a task."""
        return derived(
            learner,
            self.key,
            known,
            lambda: ([own.task for own in in_order(known.means)], *self._gaussians().solved(known)),
        )
