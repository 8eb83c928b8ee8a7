"""Gaussians with one shared covariance: linear discriminant analysis by running sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.class_statistics import discriminant, oas, scatter, shrunk
from nacre.functional.exact_sums import ExactSum
from nacre.parts.class_evidence import Answer, ClassEvidence, Evidence, TaskLabel, summed
from nacre.parts.fourier_kernel import FourierKernel
from nacre.parts.pair_means import PairMean, counts, in_order, stacked, with_rows
from nacre.parts.part import LearnerView

Covariance = Literal["rows", "tasks", "classes"]
Prior = Literal["pairs", "tasks", "counts"]


@dataclass(frozen=True)
class Gaussians:
    """Classes with one covariance.

    Attributes:
        means: Of the classes.
        scatter: The sum of their scatters or, with a mean over tasks or classes, of covariances.
        terms: How many covariances were summed.
    """

    means: list[PairMean]
    scatter: ExactSum | None
    terms: int


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
        if self.shrinkage != "oas" and not 0 <= self.shrinkage <= 1:
            raise RecipeError(f"shrinkage: {self.shrinkage:g} is not in [0, 1].")

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
        pairs = self._with(learner, known.pairs if known else None, task, by_label)
        if self.unit == "label":
            return Discriminant(pairs, None, gamma)
        whole = {"": torch.cat(list(by_label.values()))}
        return Discriminant(pairs, self._with(learner, known.tasks if known else None, task, whole), gamma)

    def _with(
        self, learner: LearnerView, known: Gaussians | None, task: str, by_class: Mapping[str, Tensor]
    ) -> Gaussians:
        means, lacking = with_rows(known.means if known else (), task, by_class)
        before, terms = (known.scatter, known.terms) if known else (None, 0)
        scatters = {label: scatter(states, states.mean(0)) for label, states in by_class.items()}
        rows = {label: len(states) for label, states in by_class.items()}
        if self.covariance == "rows":
            for label, own in scatters.items():
                before = summed(learner, before, own + lacking[label] if label in lacking else own)
        elif self.covariance == "classes":
            for label in (label for label in scatters if rows[label] > 1):
                before, terms = summed(learner, before, scatters[label] / (rows[label] - 1)), terms + 1
        elif (free := sum(rows.values()) - len(rows)) > 0:
            whole = torch.stack(list(scatters.values())).sum(0)
            before, terms = summed(learner, before, whole / free), terms + 1
        return Gaussians(means, before, terms)

    def pairs(self, known: Discriminant) -> list[TaskLabel]:
        return [own.pair for own in in_order(known.pairs.means)]

    def evidence(self, learner: LearnerView, known: Discriminant) -> Evidence:
        weights, offsets = self._solve(known.pairs)
        if known.tasks is None:
            return lambda states: self._expanded(learner, states, known.gamma) @ weights + offsets
        task_weights, task_offsets = self._solve(known.tasks)
        names = [own.task for own in in_order(known.tasks.means)]
        owners = torch.tensor([names.index(task) for task, _ in self.pairs(known)], device=weights.device)

        def within_the_best_task(states: Tensor) -> Tensor:
            states = self._expanded(learner, states, known.gamma)
            best = (states @ task_weights + task_offsets).argmax(1, keepdim=True)
            return (states @ weights + offsets).masked_fill(best != owners, -torch.inf)

        return within_the_best_task

    def _solve(self, known: Gaussians) -> tuple[Tensor, Tensor]:
        means, rows = stacked(known.means), counts(known.means)
        number, width = int(rows.sum()), means.shape[1]
        free = max(number - len(rows), 1) if self.covariance == "rows" else max(known.terms, 1)
        pooled = means.new_zeros(width, width) if known.scatter is None else known.scatter.matrix() / free
        share = oas(pooled, number) if self.shrinkage == "oas" else self.shrinkage
        solved = discriminant(means, shrunk(pooled, share), self._log_prior(known, rows))
        if solved is None:
            raise RecipeError(
                f"shrinkage: {share:g} leaves the covariance of {number} rows in {width} dimensions without an "
                "inverse; take a larger one, or 'oas'."
            )
        return solved

    def _log_prior(self, known: Gaussians, rows: Tensor) -> Tensor:
        if self.prior == "counts":
            return (rows / rows.sum()).log()
        tasks = [own.task for own in in_order(known.means)]
        siblings = torch.tensor([tasks.count(task) for task in tasks]).to(rows)
        return -siblings.log() if self.prior == "tasks" else torch.zeros_like(rows)
