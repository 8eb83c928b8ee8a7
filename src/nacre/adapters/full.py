"""Full fine-tuning as an adapter: every parameter of the host is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from nacre.adapters.adapter import Adapter
from nacre.adapters.gated_host import GatedHost
from nacre.adapters.placed_full import PlacedFull
from nacre.adapters.unit_gates import HardGates


@final
@dataclass(frozen=True)
class Full(Adapter):
    """All parameters of the host, trained on for every task."""

    learning_rate: ClassVar[float] = 1e-4
    sum_gated: ClassVar[bool] = False  # there is no low-rank update that could be folded or exported

    @property
    def grows(self) -> bool:
        return False

    @property
    def groups(self) -> tuple[str, ...]:
        return ("host",)

    def gated(self, gates: HardGates) -> GatedHost:
        """The host with a gate on each attention head and each unit of the feed-forward blocks."""
        return GatedHost(gates=gates)

    def place(self, model: nn.Module) -> PlacedFull:
        return PlacedFull(model)
