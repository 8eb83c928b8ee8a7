"""Terms added to the loss, once per optimizer step, whatever the accumulation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.errors import RecipeError
from nacre.functional.penalties import absolute_mean, absolute_sum
from nacre.parts.part import Learner, Part
from nacre.per_task import PerTask, all_values, value_of


class Penalty(Part, ABC):
    @abstractmethod
    def value(self, learner: Learner) -> Tensor:
        """The term before weighting, a scalar. Its graph reaches the trained parameters."""

    @abstractmethod
    def weight(self, learner: Learner) -> float:
        """What it is multiplied with on the task being learnt. It may depend on ``learner.task_number`` only, so that
        it can be told before anything runs."""


@dataclass(frozen=True)
class GroupL1(Penalty):
    """L1 norm of one parameter group of the adapter: strength * sum |w| (AM-LoRA Eq. 6 for the group ``selector``).

    reduce: ``mean`` divides by the number of entries. Only trained entries are counted; frozen ones would add a
    constant.
    """

    group: str
    strength: PerTask
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, f"The weight of the L1 penalty on '{self.group}'")

    @property
    def key(self) -> str:
        return f"l1_{self.group}"

    def objection(self, adapter: Adapter) -> str | None:
        if self.group in adapter.groups:
            return None
        return f"an L1 penalty on the parameter group '{self.group}' needs one; here are: {', '.join(adapter.groups)}"

    def value(self, learner: Learner) -> Tensor:
        groups = {group.name: group for group in learner.adapter.parameter_groups()}
        reduce = absolute_sum if self.reduce == "sum" else absolute_mean
        return reduce(groups[self.group].parameters)

    def weight(self, learner: Learner) -> float:
        return value_of(self.strength, learner.task_number, self.key)


def check_not_negative(strength: PerTask, name: str) -> None:
    """Raise ``RecipeError`` if a penalty's weight, or one of its weights, is below zero."""
    for value in all_values(strength):
        if not value >= 0:
            raise RecipeError(f"{name} is {value}; it cannot be negative.")
