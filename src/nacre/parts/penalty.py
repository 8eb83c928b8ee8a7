"""Terms added to the loss, once per optimizer step, whatever the accumulation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.penalties import absolute_sum
from nacre.parts.part import Learner, Part


class Penalty(Part, ABC):
    @abstractmethod
    def value(self, learner: Learner) -> Tensor:
        """The term before weighting, a scalar. Its graph reaches the trained parameters."""

    @abstractmethod
    def weight(self, learner: Learner) -> float:
        """What it is multiplied with on the task being learnt."""


@dataclass(frozen=True)
class GroupL1(Penalty):
    """L1 norm of one parameter group of the adapter: strength * sum |w| (AM-LoRA Eq. 6 for the group ``selector``).

    Only trained entries are counted; frozen ones would add a constant.
    """

    group: str
    strength: float

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise RecipeError(
                f"The weight of the L1 penalty on '{self.group}' is {self.strength}; it cannot be negative."
            )

    def value(self, learner: Learner) -> Tensor:
        groups = {group.name: group for group in learner.adapter.parameter_groups()}
        return absolute_sum(groups[self.group].parameters)

    def weight(self, learner: Learner) -> float:
        return self.strength
