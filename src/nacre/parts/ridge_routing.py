"""Any-SSR: the task of an input is inferred by ridge regression on random features of a low layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.adapters.route import Route
from nacre.models.pooled_states import PooledStates
from nacre.parts.class_evidence import Evidence
from nacre.parts.derived import derived
from nacre.parts.inferred_task import InferredTask
from nacre.parts.part import LearnerView
from nacre.parts.ridge_moments import Moments, RidgeRegression
from nacre.parts.slots_of_tasks import slots_of_tasks
from nacre.parts.states_by_content import states_by_content
from nacre.tasks.task import Task

BLOCK_4 = PooledStates(4, final_norm=True)


@dataclass(frozen=True)
class RidgeRouting(InferredTask):
    """A row is answered by the slot of the task that a ridge regression on one-hot tasks gives the largest value.

    Sums are exact and rows are read in the order of their content: the same bits in any order of rows and of tasks.
    All is computed in float64.

    State: `Moments`, a task being a pair without a label.

    Attributes:
        dimension: D, of the random features; None: the states themselves.
        relu: Whether negative features are cut off.
        lam: lambda.
        scale: Whether lambda is 'relative' to the mean of G's diagonal, or 'absolute'.
    """

    State: ClassVar[type[Moments]] = Moments

    states: PooledStates = BLOCK_4
    dimension: int | None = 2048
    relu: bool = True
    lam: float = 100.0
    scale: Literal["relative", "absolute"] = "absolute"

    def __post_init__(self) -> None:
        self._regression()  # checks the settings

    def _regression(self) -> RidgeRegression:
        return RidgeRegression(self.key, self.dimension, self.lam, self.scale, self.relu)

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Add the new tasks' rows."""
        for task in tasks:
            rows = learner.encode(task.examples("train"))  # of unlabeled text, others than the examples
            states, _ = states_by_content(learner, task.name, rows, [""] * len(rows), self.states, self.batch_size)
            known = learner.remembered(self, Moments)
            learner.remember(self, self._regression().absorbed(learner, known, task.name, {"": states}))

    def answer(self, learner: LearnerView, known: Moments, states: Tensor) -> Route:
        """The slot of the best task."""
        tasks, evidence = self._solved(learner, known)
        owners = torch.tensor(slots_of_tasks(learner, tasks), device=states.device)
        return Route(slots=owners[evidence(states.double()).argmax(-1)])

    def _solved(self, learner: LearnerView, known: Moments) -> tuple[list[str], Evidence]:
        """The tasks, sorted, and what tells their values; solved once a task."""
        regression = self._regression()
        return derived(
            learner,
            self.key,
            known,
            lambda: ([task for task, _ in regression.pairs(known)], regression.evidence(learner, known)),
        )
