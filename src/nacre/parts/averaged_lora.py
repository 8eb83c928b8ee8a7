"""SLAO: one LoRA that is trained task after task from an orthonormal A, and answers with the average of its B's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.low_rank import LowRank
from nacre.adapters.slotted import SlottedSite, low_rank_in
from nacre.errors import RecipeError
from nacre.functional.averaged_factors import averaged
from nacre.functional.sensitivity import Triplets, orthonormal_rows
from nacre.parts.part import LearnerView, Start
from nacre.parts.start import Fresh
from nacre.tasks.task import Task


@dataclass(frozen=True)
class Trained:
    """What is remembered: the half of the trained LoRA that does not answer.

    Attributes:
        ups: B of the last task as it was trained, transposed [r, d_out], by site.
    """

    ups: dict[str, Tensor]


@dataclass(frozen=True)
class AveragedLora(Start):
    """Each task's LoRA begins with an orthonormal A and the last B as trained; afterwards B is averaged.

    Between tasks the adapter holds the pair that answers, the newest A and the average B, so that whoever reads the
    learner finds what it answers with. While a task is learned it holds the pair that is trained.

    State: `Trained`.

    Attributes:
        power: p; the i-th task's B counts 1 / i^p in the average.
    """

    State: ClassVar[type[Trained]] = Trained

    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise RecipeError(f"power: {self.power} is not in [0, 1]; 1 averages all tasks alike, 0 keeps the last.")

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, LowRank) and adapter.slots == "shared" and adapter.groups == ("down", "up"):
            return None
        return "it averages one LoRA over the tasks; slao's adapter is one, seq_lora's too"

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """The first task begins as usual.

        Raises:
            RecipeError: So many orthonormal rows do not fit.
        """
        for name, site in _sites(learner).items():
            if site.slots.rank > site.d_in:
                raise RecipeError(
                    f"rank: {site.slots.rank} orthonormal rows were asked for, and {name} reads {site.d_in} dimensions."
                )
        Fresh().fill(learner, tasks)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Put the pair that is to be trained in the place of the one that answered."""
        trained = learner.remembered(self, Trained)
        if trained is None:
            return
        served = learner.resources[self.key] = {}
        for name, site in _sites(learner).items():
            served[name] = _up(site)
            exact = site.slots.down.weight.detach().to("cpu", torch.float64)
            down = orthonormal_rows(exact).to(site.slots.dtype)
            site.write(Triplets(down=down, up=trained.ups[name]))

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Remember B as trained, and put the average in its place."""
        served: Mapping[str, Tensor] | None = learner.resources.get(self.key)
        trained = {name: _up(site) for name, site in _sites(learner).items()}
        learner.remember(self, Trained(trained))
        if served is None:
            return
        for name, site in _sites(learner).items():
            up = averaged(served[name], trained[name], learner.task_number, self.power)
            site.write(Triplets(down=site.slots.down.weight, up=up))


def _sites(learner: LearnerView) -> Mapping[str, SlottedSite]:
    sites: Mapping[str, Any] = low_rank_in(learner.adapter).sites
    return sites


def _up(site: SlottedSite) -> Tensor:
    """A copy of B, transposed [r, d_out]."""
    return site.slots.up.weight.detach().T.clone(memory_format=torch.contiguous_format)
