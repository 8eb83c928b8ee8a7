"""Least squares on fixed random features: the analytic classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nacre.parts.class_evidence import ClassEvidence, Evidence, TaskLabel
from nacre.parts.part import LearnerView
from nacre.parts.ridge_moments import Moments, RidgeRegression


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
        self._regression()  # checks the settings

    def _regression(self) -> RidgeRegression:
        return RidgeRegression(self.key, self.dimension, self.lam, self.scale)

    def absorbed(
        self, learner: LearnerView, known: Moments | None, task: str, by_label: Mapping[str, Tensor]
    ) -> Moments:
        return self._regression().absorbed(learner, known, task, by_label)

    def pairs(self, known: Moments) -> list[TaskLabel]:
        return self._regression().pairs(known)

    def evidence(self, learner: LearnerView, known: Moments) -> Evidence:
        return self._regression().evidence(learner, known)
