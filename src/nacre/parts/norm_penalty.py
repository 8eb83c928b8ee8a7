"""O-LoRA's second term: the new task's tensors should stay short."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.functional.penalties import norm_sum
from nacre.parts.part import Learner
from nacre.parts.penalty import Penalty, check_not_negative
from nacre.per_task import PerTask, value_of


@dataclass(frozen=True)
class NormPenalty(Penalty):
    """strength * sum over the trained tensors of the chosen parameter groups of their L2 norm, not squared.

    Unlike a squared norm it pulls a short tensor as hard as a long one, so that a task with few updates stays small.
    """

    strength: PerTask
    groups: tuple[str, ...] = ("down", "up")

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the norm penalty")

    def objection(self, adapter: Adapter) -> str | None:
        missing = [group for group in self.groups if group not in adapter.groups]
        if not missing:
            return None
        return f"a norm penalty on the parameter group '{missing[0]}' needs one; here are: {', '.join(adapter.groups)}"

    def value(self, learner: Learner) -> Tensor:
        groups = learner.adapter.parameter_groups()
        return norm_sum([tensor for group in groups if group.name in self.groups for tensor in group.parameters])

    def weight(self, learner: Learner) -> float:
        return value_of(self.strength, learner.task_number, self.key)
