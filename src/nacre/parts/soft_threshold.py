"""Sparsity with exact zeros: the L1 norm of a parameter group by its proximal map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nacre.functional.proximal import soft_threshold
from nacre.parts.part import GradientRule, LearnerView
from nacre.per_task import PerTask, check_not_negative, value_of


@dataclass(frozen=True)
class SoftThreshold(GradientRule):
    """After each optimizer step: w <- sign(w) max(|w| - eta strength, 0) on one parameter group.

    eta is the group's learning rate at that step. This is the proximal form of `parts/penalty.GroupL1`, whose gradient
    Adam would rescale: there the strength hardly matters and nothing becomes 0.

    Attributes:
        group: Name of the parameter group.
        strength: Weight of the L1 norm.
        reduce: 'sum' over the group's entries; 'mean' divides the strength by their number.
    """

    reads_gradients: ClassVar[bool] = False

    group: str
    strength: PerTask
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, f"The soft threshold on '{self.group}'")

    @property
    def key(self) -> str:
        return f"soft_threshold_{self.group}"

    @property
    def needed_groups(self) -> tuple[str, ...]:
        return (self.group,)

    @torch.no_grad()
    def after_step(self, learner: LearnerView) -> None:
        group = {group.name: group for group in learner.trainable()}[self.group]
        strength = value_of(self.strength, learner.task_number, self.key)
        entries = group.size if self.reduce == "mean" else 1
        amount = learner.step.rate * group.rate * strength / entries
        for parameter in group.parameters:
            parameter.copy_(soft_threshold(parameter, amount))
