"""Full fine-tuning as an adapter: every parameter of the host is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import Adapter, FeatureMap, PlacedAdapter
from nacre.errors import CheckpointError, ModelError
from nacre.models.owner import ParameterGroup
from nacre.models.roles import ARCHITECTURES, ROLES, find_linears, roles_of


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

    def feature_maps(self) -> list[FeatureMap]:
        """Attention and feed-forward; neither embeddings, norms nor the head."""
        return host_feature_maps(self.model)

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


def host_feature_maps(model: nn.Module) -> list[FeatureMap]:
    """Every linear map of attention and feed-forward in a host, its bias with its weight.

    Raises ``ModelError`` for an architecture that has no row in ``models/roles``.
    """
    model_type = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    if model_type not in ARCHITECTURES:
        raise ModelError(
            f"Which linear maps of architecture '{model_type}' are attention and feed-forward is not known, so that "
            f"their features cannot be told apart; known are {', '.join(sorted(ARCHITECTURES))}."
        )
    maps = []
    for name, linear in find_linears(model, ROLES).items():
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, nn.Parameter)
        parameters = [(weight, 1 if isinstance(linear, Conv1D) else 0)]  # GPT-2 stores weights as [d_in, d_out]
        if isinstance(bias, nn.Parameter):
            parameters.append((bias, 0))
        maps.append(FeatureMap(name, name, roles_of(model, name), linear, tuple(parameters)))
    return maps
