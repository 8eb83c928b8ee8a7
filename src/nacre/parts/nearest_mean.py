"""A class is its mean, and the nearest one answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from nacre.functional.class_distance import squared_distances
from nacre.parts.class_evidence import ClassEvidence, Evidence, TaskLabel
from nacre.parts.pair_means import PairMean, in_order, stacked, with_rows
from nacre.parts.part import LearnerView


@dataclass(frozen=True)
class Means:
    """What the part remembers.

    Attributes:
        means: Of each pair's states; with the cosine, of its normalized ones.
    """

    means: list[PairMean]


@dataclass(frozen=True)
class NearestMean(ClassEvidence):
    """The pair whose mean is nearest.

    State: `Means`.

    Attributes:
        rule: 'euclidean': the distance to the mean. 'cosine': the angle to the mean of normalized states.
    """

    State: ClassVar[type[Means]] = Means

    rule: Literal["euclidean", "cosine"] = "euclidean"

    def absorbed(self, learner: LearnerView, known: Means | None, task: str, by_label: Mapping[str, Tensor]) -> Means:
        if self.rule == "cosine":
            by_label = {label: F.normalize(states, dim=1) for label, states in by_label.items()}
        return Means(with_rows(known.means if known else (), task, by_label)[0])

    def pairs(self, known: Means) -> list[TaskLabel]:
        return [own.pair for own in in_order(known.means)]

    def evidence(self, learner: LearnerView, known: Means) -> Evidence:
        means = stacked(known.means)
        if self.rule == "euclidean":
            return lambda states: -squared_distances(states, means) / 2
        directions = F.normalize(means, dim=1)
        return lambda states: F.normalize(states, dim=1) @ directions.T
