"""O-LoRA's penalty: a new task's LoRA should use other directions than those of the earlier tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from nacre.adapters.adapter import Adapter
from nacre.adapters.slotted import SlottedSite, low_rank_in, why_no_past
from nacre.functional.penalties import overlaps
from nacre.functional.stacking import group_by_shape, stacked
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task


@dataclass(frozen=True)
class Orthogonality(Penalty):
    """strength * sum over sites and earlier tasks i of |A_i A_t^T|, entry by entry.

    The first task's penalty is 0. The penalty constrains parameters, not what they compute: see
    tests/methods/test_counterexamples.py.

    Attributes:
        strength: Weight of the penalty.
        norm: 'absolute' as released; 'squared' as in the paper's equation.
        side: 'input': the A's, whose rows are directions of the site's input (released); 'output': the B's, whose
            columns are directions of its output; 'both'.
        reduce: 'sum' over the matrices, or their 'mean'.
    """

    strength: PerTask = 0.5
    norm: Literal["absolute", "squared"] = "absolute"
    side: Literal["input", "output", "both"] = "input"
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the orthogonality penalty")

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_past(adapter)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.resources[self.key] = self._pairs(learner)

    def value(self, learner: LearnerView) -> Tensor:
        pairs: Pairs = learner.resources.get(self.key) or self._pairs(learner)
        sizes = overlaps(pairs.new(), pairs.past, norm=self.norm)
        return sizes.sum() if self.reduce == "sum" else sizes.mean()

    def _pairs(self, learner: LearnerView) -> Pairs:
        sites = low_rank_in(learner.adapter).sites.values()
        directions = [found for site in sites for found in self._directions(site)]
        groups = group_by_shape(directions, lambda found: found.past.shape, learner.host.device)
        return Pairs(groups, [stacked([found.past for found in group]) for group in groups])

    def _directions(self, site: SlottedSite) -> Iterator[Directions]:
        parameters, past = site.parameters_by_group(), site.past_by_group()
        if self.side in ("input", "both"):
            yield Directions(parameters["down"], False, past["down"].flatten(0, 1))
        if self.side in ("output", "both"):
            yield Directions(parameters["up"], True, past["up"].flatten(0, 1))


@dataclass(frozen=True)
class Directions:
    """The directions of one matrix of the new task.

    Attributes:
        parameter: The matrix.
        are_columns: Whether its columns are the directions, not its rows.
        past: The earlier tasks' directions, [(t-1) r, d].
    """

    parameter: nn.Parameter
    are_columns: bool
    past: Tensor


@dataclass(frozen=True)
class Pairs:
    """The new task's matrices beside the earlier tasks' directions, which are collected once a task.

    Attributes:
        groups: Groups of n matrices of equal shape.
        past: The earlier directions of each group, [n, (t-1) r, d].
    """

    groups: Sequence[Sequence[Directions]]
    past: Sequence[Tensor]

    def new(self) -> list[list[Tensor]]:
        """The new task's directions as rows, [r, d], group by group."""
        return [[each.parameter.T if each.are_columns else each.parameter for each in group] for group in self.groups]
