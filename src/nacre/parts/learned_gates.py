"""GainLoRA's routing: a learned gate for each task, kept shut on what earlier tasks' inputs span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter, PlacedAdapter, kaiming_uniform
from nacre.adapters.route import Route
from nacre.errors import TrainingError
from nacre.functional.input_spans import ShareOf, extended_basis, top_directions
from nacre.functional.learned_gates import gate_codes, gates_of, kept
from nacre.models.host import Host
from nacre.models.pooled_states import PooledStates
from nacre.parts.input_directions import check_energy, energy_of_task
from nacre.parts.part import GradientRule, LearnerView, Reading, Routing
from nacre.parts.states_by_content import states_by_content
from nacre.parts.task_gates import GROUPS, TaskGates
from nacre.seeds import derive
from nacre.settings import check_positive
from nacre.tasks.task import Task

MEAN_OF_WORDS = PooledStates("words")


@dataclass(frozen=True)
class GateBases:
    """Directions that tasks so far used, as orthonormal rows.

    Attributes:
        bases: M1 [k, d] of p, M2 [k, h] of x1 and M3 [k, d] of x2, by the group that reads them.
    """

    bases: dict[str, Tensor]


@dataclass(frozen=True)
class LearnedGates(Routing):
    """Each slot's update is multiplied by its task's gate (`functional/learned_gates`); gates need not sum to 1.

    A new gate begins as a copy of the last one, with the key in which the new task's codes are largest outside those of
    earlier tasks. After a task the bases take up its inputs at every place of the gate, as the trained gate reads them.
    In an encoder-only host all labels compete.

    State: `GateBases`.

    Attributes:
        query: p, of the bare host.
        width: h.
        energy: e, the share that the bases hold after the first task; it grows to 1 in equal steps.
        steps: The number of these steps, one a task.
        energy_of: What it is a share of, see `functional/input_spans`.
        batch_size: Rows of a task that are read at once.
    """

    State: ClassVar[type[GateBases]] = GateBases

    groups: ClassVar[tuple[str, ...]] = GROUPS

    query: PooledStates = MEAN_OF_WORDS
    width: int = 100
    energy: float = 0.995
    steps: int = 15
    energy_of: ShareOf = "moments"
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_positive("width", self.width)
        check_energy(self.energy, self.steps)

    def objection(self, adapter: Adapter) -> str | None:
        return None if adapter.weighable else "it weights slots, one for each task; inc_lora has them"

    def place(self, host: Host, adapter: PlacedAdapter) -> TaskGates:
        return TaskGates(host, self.width)

    @torch.no_grad()
    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Open the new task's gate.

        Raises:
            TrainingError: Earlier tasks leave no direction for its key.
        """
        gates, pooled = _gates_in(learner), self._read(learner, tasks)
        seed = derive(learner.state.seed, self.key)
        if gates.newest:
            start = {group: parameter.detach() for group, parameter in gates.newest.items()}
        else:
            d = pooled.shape[1]
            shapes = {"gate_inner": (self.width, d), "gate_outer": (d, self.width), "gate_key": (1, d)}
            start = {
                group: kaiming_uniform(torch.Size(shape), derive(seed, group)).to(pooled)
                for group, shape in shapes.items()
            }
            start["gate_key"] = start["gate_key"][0]
        _, codes = gate_codes(pooled, start["gate_inner"][None].double(), start["gate_outer"][None].double())
        direction = top_directions(_moment(codes), self._basis(learner, "gate_key", codes), 1)
        if len(direction) == 0:
            raise TrainingError(
                f"{self.key}: the earlier tasks' codes leave no direction for the new task's key. Take fewer tasks, a "
                "larger width, or a smaller energy."
            )
        start["gate_key"] = direction[0] * start["gate_key"].norm()
        gates.open(start)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        slots = learner.adapter.tasks
        if slots == 0:
            return None
        gates = _gates_in(learner)
        pooled = reading.query(self.query).to(gates.dtype)
        with torch.autocast(pooled.device.type, enabled=False):
            inner, outer, keys = (gates.stacked(group)[:slots] for group in GROUPS)  # a new gate precedes its slot
            _, codes = gate_codes(pooled, inner, outer)
            return Route(gates_of(codes, keys))

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Extend the bases by what the trained gate reads."""
        gates, pooled = _gates_in(learner), self._read(learner, tasks)
        inner, outer = (gates.newest[group].detach()[None].double() for group in ("gate_inner", "gate_outer"))
        first, codes = gate_codes(pooled, inner, outer)
        share = energy_of_task(self.energy, self.steps, learner.task_number)
        read = {"gate_inner": pooled, "gate_outer": first, "gate_key": codes}
        bases = {
            group: extended_basis(_moment(inputs), self._basis(learner, group, inputs), share, self.energy_of)
            for group, inputs in read.items()
        }
        learner.remember(self, GateBases({group: basis.to(gates.dtype) for group, basis in bases.items()}))

    def _read(self, learner: LearnerView, tasks: Sequence[Task]) -> Tensor:
        """p of the tasks' training rows [n, d], in float64."""
        rows = [row for task in tasks for row in learner.encode(task.examples("train"))]
        name = " + ".join(task.name for task in tasks)
        return states_by_content(learner, name, rows, [""] * len(rows), self.query, self.batch_size)[0]

    def _basis(self, learner: LearnerView, group: str, inputs: Tensor) -> Tensor:
        """M in float64; [0, d] before the first task."""
        known = learner.remembered(self, GateBases)
        return inputs.new_zeros(0, inputs.shape[-1]) if known is None else known.bases[group].double()


@dataclass(frozen=True)
class KeptGates(GradientRule):
    """After each step, what a gate has changed in directions of earlier tasks' inputs is taken back.

    It is taken from the parameters and not from gradients, which an adaptive optimizer would turn back into these
    directions. So earlier inputs, as far as the bases hold them, pass the gate as they passed the one before, and shut
    it.

    State: `GateBases`, that of `LearnedGates`.

    Attributes:
        restore_norms: Whether rows then get the length back that they had before, as released; the gate is not shut
            on earlier inputs then.
    """

    State: ClassVar[type[GateBases]] = GateBases
    remembers: ClassVar[str] = "learned_gates"
    reads_gradients: ClassVar[bool] = False

    restore_norms: bool = False

    @property
    def needs_boundaries(self) -> bool:
        return True

    @property
    def needed_groups(self) -> tuple[str, ...]:
        return GROUPS

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Note where the new gate begins."""
        newest = _gates_in(learner).newest
        learner.resources[self.key] = {group: parameter.detach().clone() for group, parameter in newest.items()}

    @torch.no_grad()
    def after_step(self, learner: LearnerView) -> None:
        known = learner.remembered(self, GateBases)
        if known is None:
            return
        start: dict[str, Tensor] = learner.resources[self.key]
        for group, parameter in _gates_in(learner).newest.items():
            width = parameter.shape[-1]  # a key is one row
            rows, before = parameter.view(-1, width), start[group].view(-1, width)
            changed = kept(rows, before, known.bases[group], restore_norms=self.restore_norms)
            parameter.copy_(changed.view_as(parameter))


def _gates_in(learner: LearnerView) -> TaskGates:
    gates = learner.owners["routing"]
    assert isinstance(gates, TaskGates)
    return gates


def _moment(inputs: Tensor) -> Tensor:
    """The mean of x x^T over rows, of inputs [n, d] or [n, 1, d]."""
    rows = inputs.flatten(0, -2)
    return rows.T @ rows / len(rows)
