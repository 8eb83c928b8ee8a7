"""The host's own parameters as what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import FeatureMap, PlacedAdapter
from nacre.adapters.route import Route
from nacre.errors import CheckpointError, ModelError
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.roles import ARCHITECTURES, ROLES, find_linears, roles_of
from nacre.models.sharding import is_part, own_part, rows_of, whole_of


@final
class PlacedFull(PlacedAdapter):
    """The host's own parameters, except those that their owner had frozen, which stay as they are.

    Attributes:
        trained: The trained parameters by name.
        untrained: A pristine copy of them in main memory, of a sharded one this process's rows, from which `remove`
            restores them.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the host's trainable parameters and freeze them.

        Args:
            model: The host's body.

        Raises:
            ModelError: Every parameter of the host is frozen, or its weights are quantized.
        """
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ModelError(
                "Full fine-tuning has nothing to train: every parameter of the host is frozen (requires_grad=False)."
            )
        if not all(parameter.is_floating_point() for parameter in model.parameters()):
            raise ModelError(
                "Full fine-tuning cannot train quantized weights: take a method with an adapter, or "
                "model_quantization=none."
            )
        super().__init__(model)
        trained = {parameter for parameter, was_trained in self.trained_before if was_trained}
        self.trained = {name: parameter for name, parameter in model.named_parameters() if parameter in trained}
        self.untrained = {
            # A model may have shapes alone.
            name: own_part(value.detach()).to("meta" if value.is_meta else "cpu", copy=True)
            for name, value in self.trained.items()
        }

    def grow(self) -> bool:
        self.tasks += 1
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        return False

    def fresh(self, seed: int) -> None:
        """Full fine-tuning starts from the host's present values."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("host", tuple(self.trained.values()))]

    def feature_maps(self) -> list[FeatureMap]:
        """The trained linear maps of attention and feed-forward; neither embeddings, norms nor the head."""
        trained = set(self.trained.values())
        maps = []
        for feature_map in host_feature_maps(self.model):
            parameters = tuple(pair for pair in feature_map.parameters if pair[0] in trained)
            if parameters:
                maps.append(replace(feature_map, parameters=parameters))
        return maps

    def tensors(self) -> dict[str, Tensor]:
        if self.tasks == 0:
            return {}
        return {name: whole_of(parameter.detach()) for name, parameter in self.trained.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        tasks = count_of("adapter", values, "slots")
        own = dict(self.model.named_parameters())
        wanted = {name: parameter for name, parameter in own.items() if name in self.trained or name in tensors}
        check_fit("adapter", tensors, {name: Form.of(each) for name, each in wanted.items()} if tasks else {})
        for name, tensor in tensors.items():
            if name not in self.trained and not torch.equal(tensor.to(own[name].device), own[name]):
                raise CheckpointError(f"The saved model has trained parameter '{name}', which is frozen in this host.")
        self.tasks = tasks
        if self.tasks == 0:
            self.take_out()
            return
        for name, parameter in self.trained.items():
            own_part(parameter).copy_(rows_of(tensors[name], parameter))

    def folding_summary(self) -> dict[str, Any]:
        """There is no update apart from the weights."""
        return {}

    def freeze(self) -> None:
        stop_training(self.parameter_groups())

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """While open, the host computes as before training, bit for bit.

        The parameters stay the same objects, and a graph that was made before is not disturbed. Inside they are
        constants, as the host's parameters are below other adapters.
        """
        if any(map(is_part, self.trained.values())):
            raise ModelError("A sharded host whose own weights are trained cannot answer as it was before.")
        before = [(parameter, parameter.data, parameter.requires_grad) for parameter in self.trained.values()]
        for name, parameter in self.trained.items():
            # Autocast remembers the casts of tensors that require gradients: it must not mistake one value for another.
            parameter.requires_grad_(False)
            parameter.data = self.untrained[name].to(parameter.device)
        try:
            yield
        finally:
            for parameter, value, was_trained in before:
                parameter.data = value
                parameter.requires_grad_(was_trained)

    def use(self, route: Route) -> AbstractContextManager[None]:
        raise ModelError("Full fine-tuning has one set of parameters: there is nothing that a route could choose from.")

    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        return ()

    def pristine(self) -> dict[str, Tensor]:
        untrained = {id(parameter): self.untrained[name] for name, parameter in self.trained.items()}
        own = self.model.state_dict(keep_vars=True)  # of a tied weight, every name
        return {name: untrained.get(id(tensor), tensor.detach()) for name, tensor in own.items()}

    @torch.no_grad()
    def take_out(self) -> None:
        for name, parameter in self.trained.items():
            own_part(parameter).copy_(self.untrained[name])


def host_feature_maps(model: nn.Module) -> list[FeatureMap]:
    """Every linear map of attention and feed-forward in a host, its bias with its weight.

    Raises:
        ModelError: The architecture has no row in `models/roles`.
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
