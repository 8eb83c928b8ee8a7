"""N-LoRA's penalty: a new task's update should have few entries, so that it collides less with earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.slotted import low_rank_in, why_no_product
from nacre.errors import ModelError
from nacre.functional.penalties import absolute_sum
from nacre.functional.products import sum_of_absolutes, sum_of_measures
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task


@dataclass(frozen=True)
class UpdateL1(Penalty):
    """strength * sum over sites of sum |B_t A_t|, entry by entry, without the scale s.

    Attributes:
        strength: Weight of the penalty.
        form: 'update' takes the entries of B A [d_out, d_in], as in the paper; 'released' those of A B [r, r], which
            exists only where a map's input and output have one size.
    """

    strength: PerTask = 0.4
    form: Literal["update", "released"] = "update"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the L1 penalty on updates")

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_product(adapter)

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Check that the form exists.

        Raises:
            ModelError: It does not, at a site.
        """
        if self.form == "update":
            return
        for name, site in low_rank_in(learner.adapter).sites.items():
            if site.d_in != site.d_out:
                raise ModelError(
                    f"{name}: N-LoRA's released penalty multiplies a LoRA's factors the other way round, which only a "
                    f"map of one size can have, and this one reads {site.d_in} and writes {site.d_out}. Take "
                    "form=update, or other roles."
                )

    def value(self, learner: LearnerView) -> Tensor:
        slots = [site.slots for site in low_rank_in(learner.adapter).sites.values()]
        if self.form == "released":
            return absolute_sum([each.down.weight @ each.newest_up() for each in slots])
        return sum_of_measures((each.newest_up(), each.down.weight, sum_of_absolutes) for each in slots)
