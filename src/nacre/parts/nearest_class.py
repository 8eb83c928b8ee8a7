"""EPI: the task of an input is that of the nearest class, by the bare host's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.functional.class_distance import class_moments, squared_distances, whitening
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.derived import derived
from nacre.parts.inferred_task import InferredTask, TaskLabels, labels_of
from nacre.parts.part import LearnerView
from nacre.tasks.task import Task

MEAN_OF_LAST = PooledStates()


@dataclass(frozen=True)
class SlotClasses:
    """The classes of the tasks that one slot learned.

    Attributes:
        labels: The tasks' labels, each with its task.
        means: mu of each label that a training row has, and of each task without labels [C, d].
    """

    labels: list[tuple[str, str]]
    means: Tensor


@dataclass(frozen=True)
class ClassMeans:
    """What the routing remembers.

    Attributes:
        slots: The classes of each slot, oldest first.
        covariance: The sum over the slots of their covariances [d, d].
    """

    slots: list[SlotClasses]
    covariance: Tensor


@dataclass(frozen=True)
class NearestClass(InferredTask):
    """A row is answered by the slot of the class whose mean its bare state is nearest to (`functional/class_distance`).

    The covariance is shared: the mean of the slots' own. All is computed in float64.

    State: `ClassMeans`.

    Attributes:
        tolerance: Of the pseudo-inverse: the share of the largest eigenvalue up to which others are left out.
    """

    State: ClassVar[type[ClassMeans]] = ClassMeans

    states: PooledStates = MEAN_OF_LAST
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise RecipeError(f"tolerance: {self.tolerance} is not in [0, 1); it is a share of the largest eigenvalue.")

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Measure the new tasks' classes."""
        states: list[Tensor] = []
        classes: list[int] = []
        for task in tasks:
            examples = task.examples("train")
            rows = learner.encode(examples)  # of unlabeled text, others than the examples
            targets = [example.target for example in examples] if task.labels else [""] * len(rows)
            numbers = {
                target: number for number, target in enumerate(dict.fromkeys(targets), max(classes, default=-1) + 1)
            }
            classes += [numbers[target] for target in targets]
            states.append(self._states(learner, rows))
        read = torch.cat(states).double()
        means, covariance = class_moments(read, torch.tensor(classes, device=read.device), max(classes) + 1)
        known = learner.remembered(self, ClassMeans)
        before, total = ([], covariance) if known is None else (known.slots, known.covariance + covariance)
        learner.remember(self, ClassMeans([*before, SlotClasses(labels_of(tasks), means)], total))

    def _states(self, learner: LearnerView, rows: Sequence[Encoded]) -> Tensor:
        """The rows' z [n, d], read in the order of their lengths."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].source))
        read = [
            learner.pooled_states([rows[row] for row in order[start : start + self.batch_size]], self.states)
            for start in range(0, len(rows), self.batch_size)
        ]
        return torch.cat(read)[torch.tensor(order).argsort()]

    def answer(self, learner: LearnerView, known: ClassMeans, states: Tensor) -> Route:
        """The slot of the nearest class."""
        return Route(slots=self.nearest(learner, known, states))

    def labels_of_slots(self, learner: LearnerView, known: ClassMeans | None) -> list[TaskLabels]:
        return [] if known is None else [slot.labels for slot in known.slots]

    def nearest(self, learner: LearnerView, known: ClassMeans, states: Tensor) -> Tensor:
        """The slot [B] of the nearest class to each of the bare states [B, d]."""
        factor, means, owners = self._whitened(learner, known)
        return owners[squared_distances(states.double() @ factor, means).argmin(-1)]

    def _whitened(self, learner: LearnerView, known: ClassMeans) -> tuple[Tensor, Tensor, Tensor]:
        """The whitening [d, k], the classes' whitened means [C, k] and their slots [C]; computed once a task."""
        return derived(learner, self.key, known, lambda: self._whiten(known))

    def _whiten(self, known: ClassMeans) -> tuple[Tensor, Tensor, Tensor]:
        factor = whitening(known.covariance / len(known.slots), self.tolerance)
        means = torch.cat([slot.means for slot in known.slots]) @ factor
        sizes = torch.tensor([len(slot.means) for slot in known.slots])
        owners = torch.arange(len(sizes)).repeat_interleave(sizes).to(means.device)
        return factor, means, owners
