"""Penalties on the size of parameter groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nacre.functional.penalties import absolute_mean, absolute_sum, norm_sum
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative


@dataclass(frozen=True)
class GroupL1(Penalty):
    """L1 norm of one parameter group of the adapter: strength * sum |w| (AM-LoRA Eq. 6 for the group 'selector').

    Only trained entries count; frozen ones would add a constant.

    Attributes:
        group: Name of the parameter group.
        strength: Weight of the penalty.
        reduce: 'sum' over the entries, or their 'mean'.
    """

    group: str
    strength: PerTask
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, f"The weight of the L1 penalty on '{self.group}'")

    @property
    def key(self) -> str:
        return f"l1_{self.group}"

    @property
    def needed_groups(self) -> tuple[str, ...]:
        return (self.group,)

    def value(self, learner: LearnerView) -> Tensor:
        groups = {group.name: group for group in learner.trainable()}
        reduce = absolute_sum if self.reduce == "sum" else absolute_mean
        return reduce(groups[self.group].parameters)


@dataclass(frozen=True)
class NormPenalty(Penalty):
    """strength * sum of the L2 norms, not squared, of the trained tensors in the chosen parameter groups.

    Unlike a squared norm, it pulls a short tensor as hard as a long one, so that a task with few updates stays small.

    Attributes:
        strength: Weight of the penalty.
        groups: Names of the parameter groups.
    """

    strength: PerTask
    groups: tuple[str, ...] = ("down", "up")

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the norm penalty")

    @property
    def needed_groups(self) -> tuple[str, ...]:
        return self.groups

    def value(self, learner: LearnerView) -> Tensor:
        groups = learner.trainable()
        return norm_sum([tensor for group in groups if group.name in self.groups for tensor in group.parameters])
