"""O-LoRA's penalty: a new task's LoRA should use other directions than those of the earlier tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.low_rank import LowRankSite
from nacre.functional.penalties import summed_overlap
from nacre.parts.part import Learner
from nacre.parts.penalty import Penalty, check_not_negative
from nacre.parts.slots import slots_of, without_slots
from nacre.per_task import PerTask, value_of


@dataclass(frozen=True)
class Orthogonality(Penalty):
    """strength * sum over sites and earlier tasks i of |A_i A_t^T|, entry by entry.

    norm: ``absolute`` as released, ``squared`` as in the paper's equation. side: ``input``: the A's, whose rows are
    directions of the site's input (released); ``output``: the B's, whose columns are directions of its output;
    ``both``. reduce: over the matrices. The first task's penalty is 0.

    It constrains parameters, not what they compute: see tests/test_counterexamples.py.
    """

    strength: PerTask = 0.5
    norm: Literal["absolute", "squared"] = "absolute"
    side: Literal["input", "output", "both"] = "input"
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the orthogonality penalty")

    def objection(self, adapter: Adapter) -> str | None:
        return without_slots(adapter)

    def value(self, learner: Learner) -> Tensor:
        pairs = [pair for site in slots_of(learner.adapter).sites.values() for pair in self._directions(site)]
        return summed_overlap(pairs, norm=self.norm, reduce=self.reduce)

    def weight(self, learner: Learner) -> float:
        return value_of(self.strength, learner.task_number, self.key)

    def _directions(self, site: LowRankSite) -> Iterator[tuple[Tensor, Tensor]]:
        """The new task's directions as rows, [r, d], and the earlier ones', [t-1, r, d]."""
        if self.side in ("input", "both"):
            yield site.down.weight, site.past_down
        if self.side in ("output", "both"):
            yield site.up.weight.T, site.past_up
