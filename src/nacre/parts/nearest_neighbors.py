"""The kept rows that are nearest vote; what is kept of each pair is bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.errors import RecipeError
from nacre.functional.class_distance import squared_distances
from nacre.functional.neighbors import log_votes
from nacre.parts.class_evidence import Answer, ClassEvidence, Evidence, TaskLabel
from nacre.parts.part import LearnerView
from nacre.seeds import derive
from nacre.settings import check_positive

DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class KeptStates:
    """What is kept of a pair.

    Attributes:
        task: The task's name.
        label: One of its labels.
        ranks: A number of each row that follows from its state and the seed [n], rising.
        states: The rows' states [n, d]; with the cosine, normalized.
    """

    task: str
    label: str
    ranks: list[int]
    states: Tensor


@dataclass(frozen=True)
class NeighborStates:
    """What the part remembers.

    Attributes:
        kept: Of each pair.
    """

    kept: list[KeptStates]


@dataclass(frozen=True)
class NearestNeighbors(ClassEvidence):
    """Each of the k nearest kept rows votes exp(similarity / tau) for its pair.

    Which rows are kept is drawn by their content: those of the lowest rank, so that order does not matter.

    State: `NeighborStates`.

    Attributes:
        k: How many rows vote.
        per_pair: How many rows of a pair are kept, at most; None: all.
        distance: The similarity: 'cosine', or 'euclidean', minus the squared distance.
        tau: The votes' temperature.
        precision: In which states are kept.
        answer: Of a label that several tasks have: the votes of its 'best_pair', or their 'sum'.
    """

    State: ClassVar[type[NeighborStates]] = NeighborStates
    keeps_data: ClassVar[bool] = True

    k: int = 10
    per_pair: int | None = 50
    distance: Literal["cosine", "euclidean"] = "cosine"
    tau: float = 0.05
    precision: Literal["float16", "float32"] = "float16"
    answer: Answer = "best_pair"

    def __post_init__(self) -> None:
        check_positive("k", self.k)
        check_positive("tau", self.tau)
        if self.per_pair is not None:
            check_positive("per_pair", self.per_pair)

    @property
    def sums_labels(self) -> bool:
        return self.answer == "sum"

    def absorbed(
        self, learner: LearnerView, known: NeighborStates | None, task: str, by_label: Mapping[str, Tensor]
    ) -> NeighborStates:
        kept = {(own.task, own.label): own for own in known.kept} if known else {}
        for label, states in by_label.items():
            ranks = [_rank(learner.state.seed, state) for state in states.float().cpu()]
            states = F.normalize(states, dim=1) if self.distance == "cosine" else states
            states = states.to(DTYPES[self.precision])
            if not bool(states.isfinite().all()):
                raise RecipeError(f"precision: {self.precision} cannot hold the host's states; take float32.")
            if (before := kept.get((task, label))) is not None:
                ranks, states = before.ranks + ranks, torch.cat([before.states, states])
            lowest = sorted(range(len(ranks)), key=ranks.__getitem__)[: self.per_pair]
            kept[task, label] = KeptStates(task, label, [ranks[row] for row in lowest], states[lowest])
        return NeighborStates(list(kept.values()))

    def pairs(self, known: NeighborStates) -> list[TaskLabel]:
        return sorted((own.task, own.label) for own in known.kept)

    def evidence(self, learner: LearnerView, known: NeighborStates) -> Evidence:
        ordered = sorted(known.kept, key=lambda own: (own.task, own.label))
        rows = torch.cat([own.states for own in ordered]).double()
        sizes = torch.tensor([len(own.ranks) for own in ordered])
        owners = torch.arange(len(sizes)).repeat_interleave(sizes).to(rows.device)

        def votes(states: Tensor) -> Tensor:
            if self.distance == "cosine":
                similarity = F.normalize(states, dim=1) @ rows.T
            else:
                similarity = -squared_distances(states, rows)
            return log_votes(similarity / self.tau, owners, len(sizes), self.k)

        return votes


def _rank(seed: int, state: Tensor) -> int:
    return derive(seed, "nearest_neighbors", hashlib.sha256(state.numpy().tobytes()).hexdigest())
