"""Least squares on fixed random features: the analytic classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.exact_sums import ExactSum
from nacre.functional.random_features import relu_features, ridge, standard_normal
from nacre.parts.class_evidence import ClassEvidence, Evidence, TaskLabel, summed
from nacre.parts.pair_means import PairMean, counts, in_order, stacked, with_rows
from nacre.parts.part import LearnerView
from nacre.seeds import derive
from nacre.settings import check_positive


@dataclass(frozen=True)
class Moments:
    """What the part remembers.

    Attributes:
        width: d, of the states.
        means: Of each pair's expanded states: n m = Q's column.
        moment: G.
    """

    width: int
    means: list[PairMean]
    moment: ExactSum


@dataclass(frozen=True)
class RandomRidge(ClassEvidence):
    """The pair that a ridge regression on one-hot pairs gives the largest value.

    State: `Moments`.

    Attributes:
        dimension: D, of the random features; None: the states themselves.
        lam: lambda.
        scale: Whether lambda is 'relative' to the mean of G's diagonal, or 'absolute'.
    """

    State: ClassVar[type[Moments]] = Moments

    dimension: int | None = 2048
    lam: float = 0.1
    scale: Literal["relative", "absolute"] = "relative"

    def __post_init__(self) -> None:
        check_positive("lam", self.lam)
        if self.dimension is not None:
            check_positive("dimension", self.dimension)

    def absorbed(
        self, learner: LearnerView, known: Moments | None, task: str, by_label: Mapping[str, Tensor]
    ) -> Moments:
        width = next(iter(by_label.values())).shape[1]
        expand = self._expansion(learner, width)
        by_label = {label: expand(states) for label, states in by_label.items()}
        means, _ = with_rows(known.means if known else (), task, by_label)
        whole = torch.cat(list(by_label.values()))
        return Moments(width, means, summed(learner, known.moment if known else None, whole.T @ whole))

    def pairs(self, known: Moments) -> list[TaskLabel]:
        return [own.pair for own in in_order(known.means)]

    def evidence(self, learner: LearnerView, known: Moments) -> Evidence:
        expand, moment = self._expansion(learner, known.width), known.moment.matrix()
        share = moment.trace().item() / len(moment) if self.scale == "relative" else 1.0
        weights = ridge(moment, stacked(known.means).T * counts(known.means), self.lam * share)
        if weights is None:
            raise RecipeError(f"lam: {self.lam:g} is too small for these features; take a larger one.")
        return lambda states: expand(states) @ weights

    def _expansion(self, learner: LearnerView, width: int) -> Callable[[Tensor], Tensor]:
        if self.dimension is None:
            return lambda states: states
        drawn = standard_normal(width, self.dimension, derive(learner.state.seed, self.key))
        projection = drawn.to(learner.host.device)
        return lambda states: relu_features(states, projection)
