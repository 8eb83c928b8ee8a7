"""Gaussians with one shared covariance: linear discriminant analysis by running sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.parts.class_evidence import Answer, ClassEvidence, Evidence, TaskLabel
from nacre.parts.fourier_kernel import FourierKernel
from nacre.parts.pair_means import in_order
from nacre.parts.part import LearnerView
from nacre.parts.shared_gaussians import Covariance, Gaussians, Prior, SharedGaussians


@dataclass(frozen=True)
class Discriminant:
    """What the part remembers.

    Attributes:
        pairs: A class for each pair of a task and a label.
        tasks: A class for each task, where the task is chosen first; its label is empty.
        gamma: The kernel's, which the first task's rows may have decided; 0 without a kernel.
    """

    pairs: Gaussians
    tasks: Gaussians | None
    gamma: float


@dataclass(frozen=True)
class LinearDiscriminant(ClassEvidence):
    """The pair with the largest posterior.

    State: `Discriminant`.

    Attributes:
        shrinkage: g, or 'oas', which follows from the covariance and the number of rows.
        covariance: Pooled over all 'rows' (S / (N - P)), or the mean of the 'tasks', or of the 'classes' unbiased ones.
        prior: Equal for all 'pairs', for all 'tasks' and within them for their labels, or by 'counts' of rows.
        unit: What a Gaussian is of: each 'label' of a task; or first each 'task', and then the labels of the best one.
        answer: Of a label that several tasks have: the evidence of its 'best_pair', or their 'sum'.
        kernel: In whose space the Gaussians are; None: in that of the states.
    """

    State: ClassVar[type[Discriminant]] = Discriminant

    shrinkage: float | Literal["oas"] = "oas"
    covariance: Covariance = "rows"
    prior: Prior = "pairs"
    unit: Literal["label", "task"] = "label"
    answer: Answer = "best_pair"
    kernel: FourierKernel | None = None

    def __post_init__(self) -> None:
        self._gaussians()  # checks the settings

    def _gaussians(self) -> SharedGaussians:
        return SharedGaussians(self.shrinkage, self.covariance, self.prior)

    @property
    def sums_labels(self) -> bool:
        return self.answer == "sum"

    def _gamma(self, by_label: Mapping[str, Tensor]) -> float:
        return 0.0 if self.kernel is None else self.kernel.gamma_of(torch.cat(list(by_label.values())))

    def _expanded(self, learner: LearnerView, states: Tensor, gamma: float) -> Tensor:
        return states if self.kernel is None else self.kernel.expanded(learner, states, gamma)

    def absorbed(
        self, learner: LearnerView, known: Discriminant | None, task: str, by_label: Mapping[str, Tensor]
    ) -> Discriminant:
        gamma = self._gamma(by_label) if known is None else known.gamma
        by_label = {label: self._expanded(learner, states, gamma) for label, states in by_label.items()}
        gaussians = self._gaussians()
        pairs = gaussians.with_classes(learner, known.pairs if known else None, task, by_label)
        if self.unit == "label":
            return Discriminant(pairs, None, gamma)
        whole = {"": torch.cat(list(by_label.values()))}
        return Discriminant(pairs, gaussians.with_classes(learner, known.tasks if known else None, task, whole), gamma)

    def pairs(self, known: Discriminant) -> list[TaskLabel]:
        return [own.pair for own in in_order(known.pairs.means)]

    def evidence(self, learner: LearnerView, known: Discriminant) -> Evidence:
        weights, offsets = self._gaussians().solved(known.pairs)
        if known.tasks is None:
            return lambda states: self._expanded(learner, states, known.gamma) @ weights + offsets
        task_weights, task_offsets = self._gaussians().solved(known.tasks)
        names = [own.task for own in in_order(known.tasks.means)]
        owners = torch.tensor([names.index(task) for task, _ in self.pairs(known)], device=weights.device)

        def within_the_best_task(states: Tensor) -> Tensor:
            states = self._expanded(learner, states, known.gamma)
            best = (states @ task_weights + task_offsets).argmax(1, keepdim=True)
            return (states @ weights + offsets).masked_fill(best != owners, -torch.inf)

        return within_the_best_task
