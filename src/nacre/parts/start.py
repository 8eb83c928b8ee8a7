"""How a new task's parameters begin: afresh, or as a copy of the last task's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nacre.adapters.adapter import Adapter
from nacre.adapters.slotted import low_rank_in, why_no_past
from nacre.errors import RecipeError
from nacre.functional.sensitivity import Triplets
from nacre.models.roles import in_top_layers
from nacre.parts.part import LearnerView, Start
from nacre.seeds import derive
from nacre.tasks.task import Task


@dataclass(frozen=True)
class Fresh(Start):
    """The adapter's usual random start, drawn from the run's seed and the task's number."""

    @property
    def shardable(self) -> bool:
        return True

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.adapter.fresh(derive(learner.state.seed, "start", learner.task_number))


@dataclass(frozen=True)
class CopyStart(Start):
    """Copy the last task's adapter in the layers nearest to the output.

    The other layers, the first task, and the mixture's own parameters (AM-LoRA's selectors) begin as usual.

    Attributes:
        layers: Number of layers of the decoder, where there is one, otherwise of the only stack; 'all': every site.
    """

    layers: int | Literal["all"] = 4

    def __post_init__(self) -> None:
        if self.layers != "all" and self.layers < 1:
            raise RecipeError(f"layers: {self.layers} is not a positive number of layers; 'all' copies all of them.")

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_past(adapter)

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        Fresh().fill(learner, tasks)
        if learner.task_number == 1:
            return
        adapter = low_rank_in(learner.adapter)
        sites = adapter.sites
        names = list(sites) if self.layers == "all" else in_top_layers(adapter.model, sites, self.layers)
        for name in names:
            last = {group: past[-1] for group, past in sites[name].past_by_group().items()}
            sites[name].write(Triplets(**last))
