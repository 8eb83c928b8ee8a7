"""Ridge regression from fixed random features to one-hot classes: what is remembered, and how it is solved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.exact_sums import ExactSum
from nacre.functional.random_features import relu_features, ridge, standard_normal
from nacre.parts.class_evidence import Evidence, summed
from nacre.parts.pair_means import PairMean, counts, in_order, stacked, with_rows
from nacre.parts.part import LearnerView
from nacre.seeds import derive
from nacre.settings import check_positive


@dataclass(frozen=True)
class Moments:
    """What is remembered.

    Attributes:
        width: d, of the states.
        means: Of each pair's expanded states: n m = Q's column.
        moment: G.
    """

    width: int
    means: list[PairMean]
    moment: ExactSum


@final
@dataclass(frozen=True)
class RidgeRegression:
    """The regression's settings.

    Attributes:
        seed_of: Whose random features they are: the key of a part.
        dimension: D, of the random features; None: the states themselves.
        lam: lambda.
        scale: Whether lambda is 'relative' to the mean of G's diagonal, or 'absolute'.
        relu: Whether negative features are cut off.
    """

    seed_of: str
    dimension: int | None
    lam: float
    scale: Literal["relative", "absolute"]
    relu: bool = True

    def __post_init__(self) -> None:
        check_positive("lam", self.lam)
        if self.dimension is not None:
            check_positive("dimension", self.dimension)

    def absorbed(
        self, learner: LearnerView, known: Moments | None, task: str, by_label: Mapping[str, Tensor]
    ) -> Moments:
        """What is remembered after one more task.

        Args:
            learner: Who asks.
            known: What is remembered so far; None before the first task.
            task: Its name.
            by_label: The states [n, d] of each label's rows, in float64.
        """
        width = next(iter(by_label.values())).shape[1]
        expand = self._expansion(learner, width)
        by_label = {label: expand(states) for label, states in by_label.items()}
        means, _ = with_rows(known.means if known else (), task, by_label)
        whole = torch.cat(list(by_label.values()))
        return Moments(width, means, summed(learner, known.moment if known else None, whole.T @ whole))

    def pairs(self, known: Moments) -> list[tuple[str, str]]:
        """The pairs that are known, sorted."""
        return [own.pair for own in in_order(known.means)]

    def evidence(self, learner: LearnerView, known: Moments) -> Evidence:
        """What tells the pairs' values, in the order of `pairs`.

        Raises:
            RecipeError: If G + lambda I has no inverse.
        """
        expand, moment = self._expansion(learner, known.width), known.moment.matrix()
        share = moment.trace().item() / len(moment) if self.scale == "relative" else 1.0
        weights = ridge(moment, stacked(known.means).T * counts(known.means), self.lam * share)
        if weights is None:
            raise RecipeError(f"lam: {self.lam:g} is too small for these features; take a larger one.")
        return lambda states: expand(states) @ weights

    def _expansion(self, learner: LearnerView, width: int) -> Callable[[Tensor], Tensor]:
        if self.dimension is None:
            return lambda states: states
        drawn = standard_normal(width, self.dimension, derive(learner.state.seed, self.seed_of))
        projection = drawn.to(learner.host.device)
        if self.relu:
            return lambda states: relu_features(states, projection)
        return lambda states: states @ projection
