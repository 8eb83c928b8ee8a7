"""Latent-LoRA: how probable each task is for an input, by a Gaussian mixture of each, weights its slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.functional.exact_sums import ExactSum
from nacre.functional.gaussian_mixture import inverse_root, k_means, posteriors, stacked_mixtures
from nacre.models.pooled_states import PooledStates
from nacre.parts.class_evidence import summed
from nacre.parts.derived import derived
from nacre.parts.inferred_task import InferredTask
from nacre.parts.part import LearnerView
from nacre.parts.states_by_content import states_by_content
from nacre.seeds import derive
from nacre.settings import check_positive
from nacre.tasks.task import Task

MEAN_OF_WORDS = PooledStates("words")


@dataclass(frozen=True)
class SlotMixture:
    """The components of one slot's tasks.

    Attributes:
        shares: pi [K].
        means: mu [K, d].
    """

    shares: Tensor
    means: Tensor


@dataclass(frozen=True)
class Mixtures:
    """What the routing remembers.

    Attributes:
        slots: The mixture of each slot, oldest first.
        scatter: The sum over all rows of their scatter.
        rows: Number of all rows.
    """

    slots: list[SlotMixture]
    scatter: ExactSum
    rows: int


@dataclass(frozen=True)
class MixtureRouting(InferredTask):
    """A row is answered by all slots, weighted by how probable their tasks are (`functional/gaussian_mixture`).

    In an encoder-only host all labels compete. The scatter is an exact sum, rows are read in the order of their
    content, and k-means is seeded by the task's name: the same bits in any order of rows and of tasks. All is computed
    in float64.

    State: `Mixtures`.

    Attributes:
        components: K for each slot; fewer where its rows have fewer distinct states.
        iterations: Of k-means, at most.
        around: Whether the scatter is around the 'components' means or around the 'task' mean.
        epsilon: What is added to the covariance's diagonal.
        scale: Whether epsilon is 'absolute', or 'relative' to the mean of the diagonal.
    """

    State: ClassVar[type[Mixtures]] = Mixtures

    states: PooledStates = MEAN_OF_WORDS
    components: int = 5
    iterations: int = 30
    around: Literal["components", "task"] = "components"
    epsilon: float = 0.01
    scale: Literal["relative", "absolute"] = "absolute"

    def __post_init__(self) -> None:
        check_positive("components", self.components)
        check_positive("iterations", self.iterations)
        check_positive("epsilon", self.epsilon)

    def chooses_task(self, adapter: Adapter) -> bool:
        return False

    def infers_task(self, adapter: Adapter) -> bool:
        return True

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Fit the new slot's mixture."""
        rows = [row for task in tasks for row in learner.encode(task.examples("train"))]
        name = " + ".join(task.name for task in tasks)
        read, _ = states_by_content(learner, name, rows, [""] * len(rows), self.states, self.batch_size)
        assigned, means = k_means(
            read.cpu(), self.components, self.iterations, derive(learner.state.seed, self.key, name)
        )
        assigned, means = assigned.to(read.device), means.to(read.device)
        away = read - (means[assigned] if self.around == "components" else read.mean(0))
        mixture = SlotMixture(torch.bincount(assigned).double() / len(read), means)
        known = learner.remembered(self, Mixtures)
        total = summed(learner, known.scatter if known else None, away.T @ away)
        before, count = ([], 0) if known is None else (known.slots, known.rows)
        learner.remember(self, Mixtures([*before, mixture], total, count + len(read)))

    def labels_of_slots(self, learner: LearnerView, known: Mixtures | None) -> None:
        return None

    def answer(self, learner: LearnerView, known: Mixtures, states: Tensor) -> Route:
        """w; 0 for a slot that is being learned."""
        factor, shares, means = self._whitened(learner, known)
        found = posteriors(states.double() @ factor, shares, means)
        return Route(F.pad(found, (0, learner.adapter.tasks - len(shares))).to(torch.float32))

    def _whitened(self, learner: LearnerView, known: Mixtures) -> tuple[Tensor, Tensor, Tensor]:
        """F [d, d], pi [t, K] and the whitened mu [t, K, d]; computed once a task."""
        return derived(learner, self.key, known, lambda: self._whiten(known))

    def _whiten(self, known: Mixtures) -> tuple[Tensor, Tensor, Tensor]:
        covariance = known.scatter.matrix() / known.rows
        share = covariance.trace().item() / len(covariance) if self.scale == "relative" else 1.0
        factor = inverse_root(covariance + self.epsilon * share * torch.eye(len(covariance)).to(covariance))
        if factor is None:
            raise RecipeError(f"epsilon: {self.epsilon:g} is too small for these states; take a larger one.")
        shares, means = stacked_mixtures([slot.shares for slot in known.slots], [slot.means for slot in known.slots])
        return factor, shares, means @ factor
