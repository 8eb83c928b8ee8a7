"""The linear maps of a model that nacre did not place adapters in: plain, or with LoRA by PEFT."""

from __future__ import annotations

import sys

from torch import nn

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.placed_full import host_feature_maps
from nacre.errors import ModelError
from nacre.models.roles import roles_of


def trained_feature_maps(model: nn.Module) -> list[FeatureMap]:
    """The trained linear maps: those of PEFT's active LoRAs if there are any, otherwise attention and feed-forward.

    A's features are measured at its own output, B's at the output of the whole adapted layer.

    Args:
        model: A Hugging Face model.

    Raises:
        ModelError: No such map is trained, or a layer is a DoRA.
    """
    maps = [each for each in _lora_maps(model) if _is_trained(each)]
    if not maps:
        maps = [each for each in host_feature_maps(model) if _is_trained(each)]
    if not maps:
        raise ModelError(
            "No linear map of the model is trained: unfreeze its attention or feed-forward, or add a LoRA."
        )
    return maps


def _is_trained(feature_map: FeatureMap) -> bool:
    return any(parameter.requires_grad for parameter, _ in feature_map.parameters)


def _lora_maps(model: nn.Module) -> list[FeatureMap]:
    if "peft" not in sys.modules:
        return []  # then the model has none of its layers
    from peft.tuners.lora import LoraLayer

    maps = []
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        roles = roles_of(model, name)
        for adapter in layer.active_adapters:
            if adapter not in layer.lora_A:
                continue  # this layer has another adapter, or it is an embedding
            down, up = layer.lora_A[adapter], layer.lora_B[adapter]
            if not (isinstance(down, nn.Linear) and isinstance(up, nn.Linear)):
                continue  # a convolution
            if layer.use_dora.get(adapter, False):
                raise ModelError(
                    f"{name} is a DoRA layer, whose own length of each feature could not be masked: take plain LoRA."
                )
            maps.append(FeatureMap(f"{name}.lora_A.{adapter}", name, roles, down, ((_weight(down), 0),)))
            bias = () if up.bias is None else ((up.bias, 0),)
            maps.append(FeatureMap(f"{name}.lora_B.{adapter}", name, roles, layer, ((_weight(up), 0), *bias)))
    return maps


def _weight(linear: nn.Linear) -> nn.Parameter:
    assert isinstance(linear.weight, nn.Parameter)
    return linear.weight
