"""ELLA's penalty: a new task's update should be small where the sum of the earlier ones is large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.slots import SlotStack
from nacre.adapters.slotted import SlottedSite, low_rank_in, why_no_past, why_no_product
from nacre.functional.past_energy import energy_in_rank_space, energy_where, is_small_in_rank_space
from nacre.functional.products import ProductMeasure, sum_of_measures
from nacre.functional.stacking import group_by_shape, stacked
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task


@dataclass(frozen=True)
class PastEnergy(Penalty):
    """strength * sum over sites of ||D_t * P||_F^2, P the sum of the earlier tasks' updates, with the scale s in both.

    The first task's penalty is 0. P is formed once a task, from the frozen slots, where it is needed at all.

    Attributes:
        strength: Weight of the penalty.
        form: How it is computed (`functional/past_energy`): as the cheaper one 'by_size' of each site, or all 'dense'
            or in 'rank_space'. They are equal up to rounding.
    """

    strength: PerTask = 100.0
    form: Literal["by_size", "dense", "rank_space"] = "by_size"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the penalty on the past's coordinates")

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_past(adapter) or why_no_product(adapter)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.resources[self.key] = self._past(learner)

    def value(self, learner: LearnerView) -> Tensor:
        past: Past = learner.resources.get(self.key) or self._past(learner)
        return past.energy(learner.host.device)

    def _past(self, learner: LearnerView) -> Past:
        sites = [site for site in low_rank_in(learner.adapter).sites.values() if len(site.slots.past_down)]
        in_ranks = [site for site in sites if self._in_rank_space(site)]
        dense = [(site.slots, _energy_at(site)) for site in sites if not self._in_rank_space(site)]
        groups = group_by_shape(in_ranks, _shape, learner.host.device)
        return Past(dense, [Ranks.of(group) for group in groups])

    def _in_rank_space(self, site: SlottedSite) -> bool:
        if self.form != "by_size":
            return self.form == "rank_space"
        rank = site.slots.rank
        return is_small_in_rank_space(site.d_out, site.d_in, rank, rank * len(site.slots.past_down))


@dataclass(frozen=True)
class Ranks:
    """Sites of one shape whose energy is computed in rank space.

    Attributes:
        slots: Of n sites.
        up: Their B_i, [n, d_out, R].
        down: Their A_i, [n, R, d_in].
        scale: s.
    """

    slots: Sequence[SlotStack]
    up: Tensor
    down: Tensor
    scale: float

    @classmethod
    def of(cls, sites: Sequence[SlottedSite]) -> Ranks:
        """Those of sites that have earlier tasks."""
        pairs = [site.slots.past_pairs() for site in sites]
        up = stacked([up.flatten(0, 1).T for _, up in pairs])
        return cls(
            [site.slots for site in sites], up, stacked([down.flatten(0, 1) for down, _ in pairs]), sites[0].scale
        )

    def energies(self) -> Tensor:
        """Each site's, [n]."""
        up = stacked([slots.newest_up() for slots in self.slots])
        down = stacked([slots.down.weight for slots in self.slots])
        return energy_in_rank_space(up, down, self.up, self.down, scale=self.scale)


@dataclass(frozen=True)
class Past:
    """The earlier tasks beside the new one's factors, collected once a task.

    Attributes:
        dense: Sites with the energy as a function of the new product B A.
        in_ranks: Groups of sites in rank space.
    """

    dense: Sequence[tuple[SlotStack, ProductMeasure]]
    in_ranks: Sequence[Ranks]

    def energy(self, device: torch.device) -> Tensor:
        """Summed over all sites, []; 0 where there is no past."""
        total = torch.zeros((), device=device)
        if self.dense:
            total = total + sum_of_measures((slots.newest_up(), slots.down.weight, at) for slots, at in self.dense)
        for group in self.in_ranks:
            total = total + group.energies().sum()
        return total


@torch.no_grad()
def _energy_at(site: SlottedSite) -> ProductMeasure:
    down, up = site.slots.past_pairs()
    return energy_where(site.scale * (up.flatten(0, 1).T @ down.flatten(0, 1)), scale=site.scale)


def _shape(site: SlottedSite) -> torch.Size:
    return torch.Size((site.d_out, site.d_in))
