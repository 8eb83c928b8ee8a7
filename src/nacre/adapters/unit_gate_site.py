"""Gates of the host's own units: on what attention heads and feed-forward units hand on to the next linear map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.site import Site
from nacre.adapters.unit_gates import HardGates, UnitGates
from nacre.models.fit import Form


@final
class UnitGateSite(Site):
    """A linear map that reads units times their gates: `W (a (*) x)`; a unit has d_in / units numbers of x.

    Attributes:
        gates: The gates.
    """

    def __init__(self, base: nn.Module, settings: HardGates, units: int) -> None:
        """Begin without a task.

        Args:
            base: The host's linear map.
            settings: The gates' settings.
            units: Number of units, of which x is made one after the other.
        """
        super().__init__(base)
        self.gates = UnitGates(settings, units, like=self.new_tensor(0))

    @property
    def is_open(self) -> bool:
        return self.gates.is_open or self.gates.fixed is not None

    def adapted(self, x: Tensor) -> Tensor:
        by_unit = x.view(*x.shape[:-1], self.gates.units, -1).transpose(-1, -2)
        gated: Tensor = self.gates(by_unit)
        return self.untouched(gated.transpose(-1, -2).reshape(x.shape))

    def grow(self) -> bool:
        self.gates.open()
        return True

    def fresh(self, seed: int) -> None:
        self.gates.fresh(seed)

    def freeze(self) -> None:
        self.gates.embedding.requires_grad_(False)
        self.gates.embedding.grad = None

    def close(self) -> None:
        self.gates.close()

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        return {"gate": self.gates.embedding}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """None: a gate is not a linear map."""
        return []

    def public_tensors(self) -> dict[str, Tensor]:
        return self.gates.public_tensors("gate")

    def forms(self, tasks: int) -> dict[str, Form]:
        return self.gates.forms("gate", tasks)

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.gates.load_public("gate", tensors)

    def settle(self) -> None:
        self.gates.settle()

    @torch.no_grad()
    def effective_weight(self) -> Tensor | None:
        """`W diag(a)` once the gates are fixed; None as long as they are a task's."""
        if self.gates.fixed is None:
            return None
        weight = self.base_weight()
        return weight * self.gates.fixed.repeat_interleave(self.d_in // self.gates.units).to(weight.dtype)
