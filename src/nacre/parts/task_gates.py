"""The tensors of GainLoRA's gates: a small network and a key for each task, of which the newest are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from nacre.adapters.site import put_beside, take_from_beside
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup, stop_training

GROUPS = ("gate_inner", "gate_outer", "gate_key")


@final
class TaskGates:
    """A [t, h, d], B [t, d, h] and k [t, d], an `Owner` of the groups `gate_inner`, `gate_outer` and `gate_key`.

    Attributes:
        host: Whose model holds the newest ones, beside what it calls.
        width: h.
        past: Earlier tasks' tensors by group, [t - 1, ...].
        newest: The newest task's, by group; empty before the first task.
    """

    def __init__(self, host: Host, width: int) -> None:
        """Begin without gates.

        Args:
            host: Whose model holds them.
            width: h.
        """
        self.host = host
        self.width = width
        self.past: dict[str, Tensor] = {}
        self.newest: dict[str, nn.Parameter] = {}

    @property
    def dtype(self) -> torch.dtype:
        """The type that they are kept and computed in, at least float32."""
        is_double = next(self.host.model.parameters()).dtype == torch.float64
        return torch.float64 if is_double else torch.float32

    def open(self, start: Mapping[str, Tensor]) -> None:
        """Freeze the newest tensors and train others, which begin as these."""
        self._hold({group: torch.cat([*self._all(group), start[group][None]]) for group in GROUPS})
        for parameter in self.newest.values():
            parameter.requires_grad_(True)

    def stacked(self, group: str) -> Tensor:
        """All tasks' tensors of a group, oldest first [t, ...]; gradients reach the newest."""
        return torch.cat([self.past[group], self.newest[group].unsqueeze(0)])

    def _all(self, group: str) -> list[Tensor]:
        return [self.stacked(group).detach()] if self.newest else []

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `Owner`."""
        return [ParameterGroup(group, (parameter,)) for group, parameter in self.newest.items()]

    def tensors(self) -> dict[str, Tensor]:
        """See `Owner`."""
        return {group: self.stacked(group).detach() for group in self.newest}

    def values(self) -> dict[str, Any]:
        """See `Owner`."""
        return {"gates": len(self.past["gate_key"]) + 1, "width": len(self.newest["gate_key"])} if self.newest else {}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See `Owner`."""
        count, d = count_of("routing", values, "gates"), count_of("routing", values, "width")
        shapes = {"gate_inner": (self.width, d), "gate_outer": (d, self.width), "gate_key": (d,)}
        forms = {group: Form((count, *shape), self.dtype) for group, shape in shapes.items()}
        check_fit("routing", tensors, forms if count else {})
        if count:
            self._hold(tensors)
        else:
            self.remove()

    def freeze(self) -> None:
        """See `Owner`."""
        stop_training(self.parameter_groups())

    def remove(self) -> None:
        """See `Owner`."""
        take_from_beside(self.host.model)
        self.past, self.newest = {}, {}

    def _hold(self, stacks: Mapping[str, Tensor]) -> None:
        stacks = {group: stacks[group].detach().to(self.host.device, self.dtype) for group in GROUPS}
        self.past = {group: stack[:-1].clone() for group, stack in stacks.items()}
        self.newest = {group: nn.Parameter(stack[-1].clone(), requires_grad=False) for group, stack in stacks.items()}
        put_beside(self.host.model, nn.ParameterList(self.newest.values()))
