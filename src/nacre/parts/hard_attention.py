"""HAT (arXiv 1801.01423): near-binary gates on units, and what earlier tasks' gates use does not move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.adapters.unit_gates import GatedUnits, UnitGates
from nacre.errors import RecipeError
from nacre.events import Warned
from nacre.features.masked_step import Masked
from nacre.functional.hard_attention import annealed_slope, compensated, newly_used
from nacre.parts.part import GradientRule, LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task

CROWDED = 0.95
"""The share of used units above which it is said that little can be learned."""


def why_no_gates(adapter: Adapter) -> str | None:
    """The objection of a part that needs gated units; None if the adapter has some."""
    if getattr(adapter, "gates", None) is not None:
        return None
    return "it needs units with a gate for each task, and here are none; +hat adds them to seq_ft, adapter and seq_lora"


def gated_in(adapter: PlacedAdapter) -> GatedUnits:
    """The placed adapter, whose kind `why_no_gates` has checked."""
    assert isinstance(adapter, GatedUnits)
    return adapter


@dataclass(frozen=True)
class NewUnits(Penalty):
    """strength * the share of free units that the task's gates take, `sum a (1 - A) / sum (1 - A)`.

    Attributes:
        strength: lambda.
    """

    strength: PerTask = 0.75

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the penalty on new units")

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_gates(adapter)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.resources[self.key] = [gates.used() for gates in gated_in(learner.adapter).unit_gates()]

    def value(self, learner: LearnerView) -> Tensor:
        gates = gated_in(learner.adapter).unit_gates()
        return newly_used([each.newest() for each in gates], learner.resources[self.key])


@dataclass(frozen=True)
class UnitsUsed:
    """What the rule remembers, for people: it changes nothing.

    Attributes:
        shares: The mean of A over all units, after each task.
    """

    shares: list[float]


@dataclass
class Guarded:
    """What lives while a task is learned.

    Attributes:
        gates: The gates of every layer.
        free: Parameters that earlier tasks use, each with the share of an update that stays.
        held: The same parameters' values before the optimizer's step, and the gates' embeddings.
    """

    gates: Sequence[UnitGates]
    free: list[tuple[nn.Parameter, Tensor]]
    held: list[Tensor] = field(default_factory=list)
    embeddings: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class HardAttention(GradientRule):
    """Anneals the gates, compensates their gradients, and protects what earlier tasks use.

    State: `UnitsUsed`.

    Attributes:
        mask: `gradient`: gradients are multiplied with the free share before clipping and the optimizer, whose momentum
            and weight decay still move what is used, and which undoes a constant factor. `update`: the step itself is
            multiplied, too, so that a used parameter stays to the bit.
        anneal: Over what s rises from 1 / smax to smax: each `epoch`, or the whole `task`.
        gates_by: Who moves e: the `optimizer`, by the compensated gradient; or `sgd`, plain descent along it.
        clamp: e is kept in [-clamp, clamp].
    """

    State: ClassVar[type[UnitsUsed]] = UnitsUsed

    mask: Masked = "update"
    anneal: Literal["epoch", "task"] = "epoch"
    gates_by: Literal["optimizer", "sgd"] = "optimizer"
    clamp: float = 6.0

    def __post_init__(self) -> None:
        if not self.clamp > 0:
            raise RecipeError(f"clamp: {self.clamp} is not positive; the gates' embeddings stay in [-clamp, clamp].")

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        return why_no_gates(adapter)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        adapter = gated_in(learner.adapter)
        later = learner.task_number > 1
        free = [(each.parameter, each.free()) for each in adapter.protected()] if later else []
        guarded = Guarded(adapter.unit_gates(), free)
        learner.resources[self.key] = guarded
        learner.on_close(lambda: _set_slope(guarded.gates, None))

    def before_step(self, learner: LearnerView) -> None:
        _set_slope(self._guarded(learner).gates, self.slope(learner))

    def slope(self, learner: LearnerView) -> float:
        """s of the step being taken."""
        step = learner.step
        batches = step.of if self.anneal == "task" else step.of // learner.epochs
        settings = gated_in(learner.adapter).unit_gates()[0].settings
        return annealed_slope(step.number % batches + 1, batches, settings.slope)

    @torch.no_grad()
    def apply(self, learner: LearnerView) -> None:
        guarded, slope = self._guarded(learner), self.slope(learner)
        for gates in guarded.gates:
            if (gradient := gates.embedding.grad) is not None:
                gradient.copy_(compensated(gradient, gates.embedding, slope, gates.settings.slope))
        for parameter, free in guarded.free:
            if parameter.grad is not None:
                parameter.grad.mul_(free)
        if self.mask == "update":
            guarded.held = [parameter.detach().clone() for parameter, _ in guarded.free]
        if self.gates_by == "sgd":
            guarded.embeddings = [gates.embedding.detach().clone() for gates in guarded.gates]

    @torch.no_grad()
    def after_step(self, learner: LearnerView) -> None:
        guarded = self._guarded(learner)
        if self.mask == "update":
            for (parameter, free), before in zip(guarded.free, guarded.held, strict=True):
                # Exact at both ends: what is used stays to the bit, and what is free takes the whole step.
                parameter.copy_(torch.lerp(before, parameter, free.expand_as(parameter)))
        for number, gates in enumerate(guarded.gates):
            if self.gates_by == "sgd" and gates.embedding.grad is not None:
                rate = learner.step.rate * gates.settings.rate
                gates.embedding.copy_(guarded.embeddings[number] - rate * gates.embedding.grad)
            gates.embedding.clamp_(-self.clamp, self.clamp)

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        gates = self._guarded(learner).gates
        used = torch.cat([torch.maximum(each.used(), each.learned(each.embedding)) for each in gates])
        share = float(used.mean())
        before = learner.remembered(self, UnitsUsed)
        learner.remember(self, UnitsUsed([*(before.shares if before else ()), share]))
        if share > CROWDED:
            learner.on_event(
                Warned(
                    f"The tasks so far use {100 * share:.0f} % of the gated units, so that little is left to learn "
                    "with: make the layers wider, or give the penalty on new units more weight."
                )
            )

    def _guarded(self, learner: LearnerView) -> Guarded:
        guarded = learner.resources[self.key]
        assert isinstance(guarded, Guarded)
        return guarded


def _set_slope(gates: Sequence[UnitGates], slope: float | None) -> None:
    for each in gates:
        each.slope = slope
