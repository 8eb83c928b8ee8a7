"""Gaussians of classes with one covariance, by running sums without rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.class_statistics import discriminant, oas, scatter, shrunk
from nacre.functional.exact_sums import ExactSum
from nacre.parts.class_evidence import summed
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
class SharedGaussians:
    """How they are made of rows, and solved.

    Attributes:
        shrinkage: g, or 'oas', which follows from the covariance and the number of rows.
        covariance: Pooled over all 'rows' (S / (N - P)), or the mean of the 'tasks', or of the 'classes' unbiased ones.
        prior: Equal for all 'pairs', for all 'tasks' and within them for their labels, or by 'counts' of rows.
    """

    shrinkage: float | Literal["oas"]
    covariance: Covariance
    prior: Prior

    def __post_init__(self) -> None:
        if self.shrinkage != "oas" and not 0 <= self.shrinkage <= 1:
            raise RecipeError(f"shrinkage: {self.shrinkage:g} is not in [0, 1].")

    def with_classes(
        self, learner: LearnerView, known: Gaussians | None, task: str, by_class: Mapping[str, Tensor]
    ) -> Gaussians:
        """The Gaussians with one more task's classes.

        Args:
            learner: Who asks.
            known: Those so far.
            task: The task's name.
            by_class: The states [n, d] of each class's rows, in float64, classes and rows in canonical order.
        """
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

    def solved(self, known: Gaussians) -> tuple[Tensor, Tensor]:
        """Weights [d, P] and offsets [P] of the classes' log evidence, classes sorted.

        Raises:
            RecipeError: The covariance has no inverse.
        """
        means, rows = stacked(known.means), counts(known.means)
        number, width = int(rows.sum()), means.shape[1]
        free = max(number - len(rows), 1) if self.covariance == "rows" else max(known.terms, 1)
        pooled = means.new_zeros(width, width) if known.scatter is None else known.scatter.matrix() / free
        share = oas(pooled, number) if self.shrinkage == "oas" else self.shrinkage
        found = discriminant(means, shrunk(pooled, share), self._log_prior(known, rows))
        if found is None:
            raise RecipeError(
                f"shrinkage: {share:g} leaves the covariance of {number} rows in {width} dimensions without an "
                "inverse; take a larger one, or 'oas'."
            )
        return found

    def _log_prior(self, known: Gaussians, rows: Tensor) -> Tensor:
        if self.prior == "counts":
            return (rows / rows.sum()).log()
        tasks = [own.task for own in in_order(known.means)]
        siblings = torch.tensor([tasks.count(task) for task in tasks]).to(rows)
        return -siblings.log() if self.prior == "tasks" else torch.zeros_like(rows)
