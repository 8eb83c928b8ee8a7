"""Full fine-tuning as an adapter: every parameter of the host is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, ParameterGroup, PlacedAdapter
from nacre.errors import CheckpointError


@dataclass(frozen=True)
class Full(Adapter):
    """All parameters of the host, trained on for every task."""

    learning_rate: ClassVar[float] = 1e-4
    sum_gated: ClassVar[bool] = False  # there is no low-rank update that could be folded or exported
    grows: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("host",)

    def place(self, model: nn.Module) -> PlacedFull:
        return PlacedFull(model)


class PlacedFull(PlacedAdapter):
    """The host's own parameters. A pristine copy is kept in main memory, so that ``remove`` can give it back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.pristine = {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}

    def grow(self) -> bool:
        self.tasks += 1
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        return False

    def fresh(self, seed: int) -> None:
        """Full fine-tuning starts from what is there."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("host", tuple(self.model.parameters()))]

    def tensors(self) -> dict[str, Tensor]:
        if self.tasks == 0:
            return {}
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], tasks: int) -> None:
        self.tasks = tasks
        if tasks == 0:
            return
        for name, parameter in self.model.named_parameters():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise CheckpointError(f"The saved model does not fit this host: parameter '{name}'.")
            parameter.copy_(tensors[name])

    @torch.no_grad()
    def remove(self) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.pristine[name])
            parameter.requires_grad_(True)
