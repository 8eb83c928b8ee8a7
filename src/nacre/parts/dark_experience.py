"""DER++: rows drawn from a reservoir keep their logits, and their labels are learned again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.dark_logits import condensed, squared_distance, target_places
from nacre.functional.losses import token_loss_sum
from nacre.parts.part import LearnerView, Penalty
from nacre.parts.reservoir import StoredRow, open_reservoir
from nacre.per_task import PerTask, check_not_negative
from nacre.seeds import derive


@dataclass(frozen=True)
class DarkLogits(Penalty):
    """strength * the squared distance of rows' logits to those that were stored with them (DER).

    Rows are drawn once a step, without replacement. A class that did not exist when a row was stored has no part.
    Where the weight is 0, nothing is computed.

    Attributes:
        strength: Weight of the term, alpha.
        rows: Number of rows to draw.
        distance: 'mean' over the target tokens and over the logits of each; 'sum' over these.
    """

    strength: PerTask = 0.3
    rows: int = 16
    distance: Literal["mean", "sum"] = "mean"

    @property
    def shardable(self) -> bool:
        return True

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of stored logits")
        check_rows(self.rows)

    def value(self, learner: LearnerView) -> Tensor:
        """The distance, []; as long as nothing is stored, 0 without a graph."""
        drawn = drawn_rows(self, learner)
        if not drawn:
            return torch.zeros((), device=learner.host.device)
        rows = [stored.row(learner.host) for stored in drawn]
        logits, labels = learner.predictions(rows)
        sizes = [row.num_target_tokens for row in rows]
        live = logits.flatten(0, -2)[target_places(labels, sum(sizes))]
        parts = [_distance(own, stored) for own, stored in zip(torch.split(live, sizes), drawn, strict=True)]
        total = torch.stack([squares for squares, _ in parts]).sum()
        return total / (torch.stack([number for _, number in parts]).sum() if self.distance == "mean" else sum(sizes))


@dataclass(frozen=True)
class StoredLabels(Penalty):
    """strength * the mean task loss of rows from the reservoir (the second term of DER++).

    Rows are drawn once a step, without replacement, independently of those of `DarkLogits`. Where the weight is 0,
    nothing is computed.

    Attributes:
        strength: Weight of the term, beta.
        rows: Number of rows to draw.
    """

    strength: PerTask = 0.5
    rows: int = 16

    @property
    def shardable(self) -> bool:
        return True

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of stored labels")
        check_rows(self.rows)

    def value(self, learner: LearnerView) -> Tensor:
        """The loss, []; as long as nothing is stored, 0 without a graph."""
        drawn = drawn_rows(self, learner)
        if not drawn:
            return torch.zeros((), device=learner.host.device)
        rows = [stored.row(learner.host) for stored in drawn]
        return token_loss_sum(*learner.predictions(rows)) / sum(row.num_target_tokens for row in rows)


def drawn_rows(part: DarkLogits | StoredLabels, learner: LearnerView) -> Sequence[StoredRow]:
    """The step's draw, by the seed, the part and the place; none where its weight is 0."""
    stored = open_reservoir(learner).rows
    if part.weight(learner.task_number) == 0:
        return ()
    where = (learner.state.seed, part.key, learner.task_number, learner.step.number)
    return random.Random(derive(*where)).sample(stored, min(part.rows, len(stored)))


def check_rows(rows: int) -> None:
    """Refuse a number of rows that is none."""
    if rows < 1:
        raise RecipeError(f"rows: {rows} is not a positive number of rows to draw in each step.")


def _distance(live: Tensor, stored: StoredRow) -> tuple[Tensor, Tensor]:
    """Of one row's live logits [n, V], and the number of entries."""
    live = live[:, : stored.width]
    return squared_distance(live if stored.tokens is None else condensed(live, stored.tokens), stored.logits)
