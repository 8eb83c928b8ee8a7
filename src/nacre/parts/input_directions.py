"""InfLoRA's start: a new task's A reads directions of its own inputs that earlier tasks' inputs have no part in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter, kaiming_uniform
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.adapters.slotted import SlottedSite, low_rank_in
from nacre.errors import RecipeError, TrainingError
from nacre.events import Warned
from nacre.features.input_moments import InputMoments, read_input_moments
from nacre.functional.input_spans import ShareOf, extended_basis, outside, top_directions
from nacre.functional.sensitivity import Triplets
from nacre.parts.part import LearnerView, Start
from nacre.seeds import derive
from nacre.tasks.task import Task

ROWS_AT_ONCE = 16
"""Rows of a pass that are read at once; sums are the same for any number, up to rounding."""


@dataclass(frozen=True)
class Bases:
    """What is remembered of inputs.

    Attributes:
        bases: Orthonormal rows M [k, d], the directions that tasks so far used, by the first site that reads them.
        first: Of each site, the first one that reads the same inputs.
    """

    bases: dict[str, Tensor]
    first: dict[str, str]


@dataclass(frozen=True)
class InputDirections(Start):
    """A's rows are directions outside the span of earlier tasks' inputs, B is zero (`functional/input_spans`).

    Before a task its rows are read through the learner as the last task left it; after it once more, as the learner is
    then, to extend the bases. Targets are read, too, as far as hosts of the family read them.

    State: `Bases`.

    Attributes:
        choose: 'data': the directions in which the new task's inputs are largest; 'random': random ones, each row of
            the same length.
        energy: e, the share that the bases hold after the first task; it grows to 1 in equal steps.
        steps: The number of these steps, one a task.
        energy_of: What it is a share of, see `functional/input_spans`.
    """

    State: ClassVar[type[Bases]] = Bases

    choose: Literal["data", "random"] = "data"
    energy: float = 0.995
    steps: int = 15
    energy_of: ShareOf = "moments"

    def __post_init__(self) -> None:
        check_energy(self.energy, self.steps)

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, LowRank) and adapter.slots == "per_task" and adapter.trains == "up":
            return None
        return "it gives each task's A its directions, which must not be trained; inf_lora's adapter keeps them"

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Choose the new slot's directions.

        Raises:
            TrainingError: Earlier tasks' inputs leave none.
        """
        found = self._read(learner, tasks) if self.choose == "data" else None
        few: list[str] = []
        for name, site in low_rank_in(learner.adapter).sites.items():
            assert isinstance(site, LowRankSite)
            basis = self._basis(learner, name, site)
            if len(basis) == site.d_in:
                raise TrainingError(
                    f"{name}: the earlier tasks' inputs span all {site.d_in} dimensions, so that 0 are left for a new "
                    "task to learn in. Take fewer tasks, or a smaller energy, which protects only what earlier tasks "
                    "use most."
                )
            down = self._random(learner, name, site, basis) if found is None else _largest(found, name, site, basis)
            if bool((down == 0).all(1).any()):
                few.append(name)
            like = site.slots.down.weight
            site.write(Triplets(down=down.to(like) / math.sqrt(3), up=torch.zeros_like(site.slots.up.weight.T)))
        if few:
            learner.on_event(
                Warned(
                    f"{few[0]} and {len(few) - 1} other site(s): outside earlier tasks' inputs the new ones have fewer "
                    "directions than the rank. The rest of the rank learns nothing."
                )
            )

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Extend the bases by the new task's inputs."""
        found = self._read(learner, tasks)
        share = energy_of_task(self.energy, self.steps, learner.task_number)
        sites = low_rank_in(learner.adapter).sites
        bases = {
            first: extended_basis(moment, self._basis(learner, first, sites[first]), share, self.energy_of)
            for first, moment in found.moments.items()
        }
        kept = {first: basis.to(sites[first].slots.dtype) for first, basis in bases.items()}
        learner.remember(self, Bases(kept, found.first))

    def _random(self, learner: LearnerView, name: str, site: LowRankSite, basis: Tensor) -> Tensor:
        """Rows of length one outside the basis [r, d_in]."""
        seed = derive(learner.state.seed, self.key, learner.task_number, name)
        drawn = kaiming_uniform(site.slots.down.weight.shape, seed).to(basis)
        return F.normalize(outside(drawn, basis), dim=1)

    def _read(self, learner: LearnerView, tasks: Sequence[Task]) -> InputMoments:
        """Moments of the tasks' training rows, through the learner as it is."""
        rows = [row for task in tasks for row in learner.encode(task.examples("train"))]
        return read_input_moments(learner.host, rows, list(low_rank_in(learner.adapter).sites), ROWS_AT_ONCE)

    def _basis(self, learner: LearnerView, name: str, site: SlottedSite) -> Tensor:
        """M in float64; [0, d_in] before the first task."""
        known = learner.remembered(self, Bases)
        if known is None:
            return site.slots.past_down.new_zeros(0, site.d_in, dtype=torch.float64)
        return known.bases[known.first[name]].double()


def _largest(found: InputMoments, name: str, site: SlottedSite, basis: Tensor) -> Tensor:
    """The directions of length one in which inputs are largest; zeros where there are fewer than r [r, d_in]."""
    moment = found.moments[found.first[name]]
    directions = top_directions(moment, basis, site.slots.rank)
    return torch.cat([directions, directions.new_zeros(site.slots.rank - len(directions), site.d_in)])


def check_energy(energy: float, steps: int) -> None:
    """Refuse shares and numbers of steps that make no sense.

    Raises:
        RecipeError: One of them is out of range.
    """
    if not 0 < energy <= 1:
        raise RecipeError(f"energy: {energy} is not in (0, 1]; it is a share, and 1 protects every direction.")
    if steps < 1:
        raise RecipeError(f"steps: {steps} is not a positive number of tasks.")


def energy_of_task(energy: float, steps: int, number: int) -> float:
    """e + (1 - e) (t - 1) / steps of task t, from 1; at most 1."""
    return energy + (1 - energy) * min(1.0, (number - 1) / steps)
