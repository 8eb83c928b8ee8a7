"""Hard attention (HAT): a gate on every unit of a layer for each task, and what the gates protect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from nacre.adapters.routed import weights_of_rows
from nacre.errors import RecipeError
from nacre.functional.hard_attention import free_share
from nacre.models.fit import Form


@final
@dataclass(frozen=True)
class HardGates:
    """Settings of gates `a = sigmoid(s e)`.

    Attributes:
        slope: smax, the s of a learned task's gates.
        binary: Whether a learned task's gates are rounded to 0 and 1.
        rate: Learning rate of e in multiples of the task's.
    """

    slope: float = 400.0
    binary: bool = False
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.slope >= 1:
            raise RecipeError(f"slope: {self.slope} is below 1; s rises from 1/slope to slope.")
        if not self.rate > 0:
            raise RecipeError(f"gate_rate: {self.rate} is not positive; it multiplies the learning rate of the gates.")


@final
class UnitGates(nn.Module):
    """The gates of one layer's units.

    Attributes:
        settings: The gates' settings.
        units: Number of units.
        embedding: The newest task's e [units], trained.
        past: The earlier tasks' e [t-1, units], frozen.
        slope: s of the newest task's gates; None: as those of a learned task.
        row_weights: Weight of each task for each row of the batch [B, t]; None: the newest task.
        fixed: What the gates are for good, [units]; None: they are a task's.
        is_open: Whether there is a newest task.
    """

    embedding: nn.Parameter
    past: Tensor
    fixed: Tensor | None

    def __init__(self, settings: HardGates, units: int, *, like: Tensor) -> None:
        """Begin without a task.

        Args:
            settings: The gates' settings.
            units: Number of units.
            like: A tensor on the layer's device and in the gates' type.
        """
        super().__init__()
        self.settings, self.units = settings, units
        self.register_buffer("past", like.new_zeros(0, units))
        self.register_buffer("fixed", None)
        self.slope: float | None = None
        self.row_weights: Tensor | None = None
        self.is_open = False

    def open(self) -> None:
        """Begin a task; the gates of the last one freeze."""
        if self.is_open:
            self.past = torch.cat([self.past, self.embedding.detach().unsqueeze(0)])
        self.embedding = nn.Parameter(self.past.new_zeros(self.units))
        self.is_open = True

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        """Draw the newest task's e from a standard normal distribution."""
        generator = torch.Generator().manual_seed(seed)
        self.embedding.copy_(torch.randn(self.units, generator=generator))

    def close(self) -> None:
        """Forget every task."""
        if self.is_open:
            del self.embedding
        self.is_open, self.slope, self.past = False, None, self.past[:0]

    def learned(self, embedding: Tensor) -> Tensor:
        """Gates of learned tasks: e [...] -> [...]."""
        if self.settings.binary:
            return (embedding > 0).to(embedding.dtype)
        return torch.sigmoid(self.settings.slope * embedding)

    def newest(self) -> Tensor:
        """The newest task's gates [units], under its present slope."""
        return self.learned(self.embedding) if self.slope is None else torch.sigmoid(self.slope * self.embedding)

    def present(self) -> Tensor:
        """The gates [units] that stand where rows are not weighted."""
        return self.newest() if self.fixed is None else self.fixed

    def by_task(self) -> Tensor:
        """Every task's gates, newest last, [t, units]."""
        return torch.cat([self.learned(self.past), self.newest().unsqueeze(0)])

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the gates of the one row that is chosen, or the newest ones, for good; they are not trained."""
        if not self.is_open:
            return
        chosen = self.newest() if self.row_weights is None else (self.row_weights.to(self.past) @ self.by_task())[0]
        self.close()
        self.fixed, self.row_weights = chosen, None

    def used(self) -> Tensor:
        """A [units], the largest gate of the earlier tasks; 0 before the second."""
        return self.learned(self.past).amax(0) if len(self.past) else self.past.new_zeros(self.units)

    def forward(self, outputs: Tensor) -> Tensor:
        """`a * h`, row by row with the gates of the row's task: h [B, ..., units]."""
        if self.fixed is not None or self.row_weights is None:
            return outputs * self.present().to(outputs.dtype)
        gates = self.by_task()
        chosen = weights_of_rows(self.row_weights, outputs).to(gates) @ gates
        return outputs * chosen.to(outputs.dtype).view(len(chosen), *[1] * (outputs.ndim - 2), -1)

    def public_tensors(self, name: str) -> dict[str, Tensor]:
        """The saved tensors: `name` [units] of the newest task, `past_name` of the others, detached."""
        return {name: self.embedding.detach(), f"past_{name}": self.past}

    def forms(self, name: str, tasks: int) -> dict[str, Form]:
        """What `public_tensors` gives after so many tasks."""
        dtype = self.past.dtype
        return {name: Form((self.units,), dtype), f"past_{name}": Form((tasks - 1, self.units), dtype)}

    @torch.no_grad()
    def load_public(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `public_tensors` gave."""
        self.open()
        self.embedding.copy_(tensors[name])
        self.past = tensors[f"past_{name}"].to(self.past.device, self.past.dtype)


@final
@dataclass(frozen=True, eq=False)
class Units:
    """The units at one end of a parameter.

    Attributes:
        gates: Their gates.
        axis: Slice j of the parameter along this axis belongs to one of them.
        numbers: To which one, [slices], or to which ones, [slices, k], where k units share it; None: to unit j.
    """

    gates: UnitGates
    axis: int
    numbers: Tensor | None = None

    def used(self, like: Tensor) -> Tensor:
        """A of each slice, in a shape that broadcasts to the parameter's."""
        used = self.gates.used()
        if self.numbers is not None:
            used = used[self.numbers]
        if used.ndim > 1:
            used = used.amax(1)  # used if one of them is
        return used.view([-1 if axis == self.axis else 1 for axis in range(like.ndim)])


@final
@dataclass(frozen=True, eq=False)
class Protected:
    """A trained parameter between gated units.

    Attributes:
        parameter: The parameter.
        ends: The gated units at its ends; an end without gates counts as used by every task.
    """

    parameter: nn.Parameter
    ends: tuple[Units, ...]

    def free(self) -> Tensor:
        """How much of an update stays, broadcastable to the parameter's shape."""
        return free_share([end.used(self.parameter) for end in self.ends])


class GatedUnits(ABC):
    """A placed adapter with gated units."""

    @abstractmethod
    def unit_gates(self) -> Sequence[UnitGates]:
        """The gates of every layer."""

    @abstractmethod
    def protected(self) -> Sequence[Protected]:
        """The trained parameters beside the gates."""


def check_shared(slots: Literal["shared", "per_task"]) -> None:
    """Refuse gates where tasks have no units in common.

    Args:
        slots: Whether the tasks share a slot.

    Raises:
        RecipeError: They do not.
    """
    if slots == "per_task":
        raise RecipeError("gates: every task has a slot of its own here, so that there is nothing to share out.")


@contextmanager
def rows_gated(gates: Sequence[UnitGates], weights: Tensor | None) -> Iterator[None]:
    """While open, each row of a batch is gated by the tasks that its weights [B, t] name."""
    if gates and weights is not None:
        weights = weights.to(gates[0].past.device, non_blocking=True)
    before = [(each, each.row_weights) for each in gates]
    for each in gates:
        each.row_weights = weights
    try:
        yield
    finally:
        for each, weights_before in before:
            each.row_weights = weights_before
