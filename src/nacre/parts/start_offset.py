"""A new task's LoRA let in slowly, so that opening it does not change what the host computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nacre.adapters.adapter import Adapter
from nacre.adapters.gated import Gated, PlacedGated
from nacre.errors import RecipeError
from nacre.parts.part import GradientRule, LearnerView
from nacre.per_task import PerTask, check_not_negative, value_of
from nacre.tasks.task import Task


@dataclass(frozen=True)
class StartOffset(GradientRule):
    """The newest score becomes z_t - c max(0, 1 - step / steps) while a task is learned, from the second task on.

    A LoRA that has learned nothing has the score 0, so that its place in the softmax takes the share 1 / (Z + 1) from
    the earlier ones, Z their own sum of exp(z); with an offset c it takes 1 / (exp(c) Z + 1).

    Attributes:
        size: The offset c.
        steps: Number of steps in which it falls to 0; all of the task's if it has fewer.
    """

    reads_gradients: ClassVar[bool] = False

    size: PerTask
    steps: int

    def __post_init__(self) -> None:
        check_not_negative(self.size, "start_offset")
        if self.steps < 1:
            raise RecipeError(f"offset_steps: {self.steps} is not a positive number of steps.")

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        return None if isinstance(adapter, Gated) else "only a gated adapter (AM-LoRA) has scores to take it from"

    def before_step(self, learner: LearnerView) -> None:
        self._set(learner, max(0.0, 1 - learner.step.number / min(self.steps, learner.step.of)))

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self._set(learner, 0.0)

    def _set(self, learner: LearnerView, share: float) -> None:
        assert isinstance(learner.adapter, PlacedGated)
        size = value_of(self.size, learner.task_number, "start_offset") if learner.task_number > 1 else 0.0
        learner.adapter.set_offset(size * share)
