"""Units of a transformer's layers, attention heads and feed-forward neurons, and virtual gates on them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.placed_full import host_feature_maps
from nacre.errors import ModelError
from nacre.models.architectures import architecture_of, config_of


@final
@dataclass(frozen=True, eq=False)
class UnitSite:
    """The units of one kind in one layer.

    Attributes:
        name: Unique in the host.
        module: The linear map whose input or output the units are.
        side: Which of the two.
        count: Number of units. Each has as many neighboring features, one or a head's.
        incoming: The linear maps that compute the units: the slices of their parameters belong to units.
        size: Features of a unit, as the incoming maps compute it.
    """

    name: str
    module: nn.Module
    side: Literal["input", "output"]
    count: int
    incoming: tuple[FeatureMap, ...]
    size: int

    def by_feature(self, values: Tensor, feature_map: FeatureMap) -> Tensor:
        """A value for each feature of an incoming map: its unit's, [units] -> [features].

        Keys and values that several query heads share have the largest of theirs.
        """
        computed = feature_map.features // self.size
        return values.view(computed, self.count // computed).amax(1).repeat_interleave(self.size)


def unit_sites(model: nn.Module) -> list[UnitSite]:
    """All units of a host, layer by layer.

    Heads: what enters the attention's output map, cross-attention's too. Intermediate: what the feed-forward's first
    map gives, before the activation; where a gate is multiplied with it, the product. Output: what the feed-forward
    gives.

    Args:
        model: The host's body, without sites.

    Raises:
        ModelError: If its linear maps are not known, or one of them computes query, key and value together.
    """
    sites: list[UnitSite] = []
    pending: list[FeatureMap] = []
    for found in host_feature_maps(model):
        if len(found.roles) != 1:
            raise ModelError(
                f"{found.place} computes {', '.join(found.roles)} together, so that no head has weights of its own: "
                "take an architecture with separate maps (T5, BART, BERT, RoBERTa, Llama, Mistral, Qwen)."
            )
        (role,) = found.roles
        if role == "output":
            heads = _heads(model, found.place)
            sites.append(UnitSite(found.place, found.module, "input", heads, tuple(pending), _read(found) // heads))
        elif role == "ffn_out":
            gated = any("ffn_gate" in each.roles for each in pending)
            module = found.module if gated else pending[0].module
            side: Literal["input", "output"] = "input" if gated else "output"
            name = f"{found.place}.intermediate"
            sites.append(UnitSite(name, module, side, _read(found), tuple(pending), 1))
            sites.append(UnitSite(found.place, found.module, "output", found.features, (found,), 1))
        else:
            pending.append(found)
            continue
        pending = []
    return sites


@contextmanager
def gated(sites: Sequence[UnitSite], gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, every unit is multiplied by its gate, row by row.

    Args:
        sites: The units.
        gates: By the sites' names, [B, units], for batches of B rows.
    """
    with ExitStack() as hooks:
        for site in sites:
            gate = functools.partial(_times, gates[site.name], site.count)
            if site.side == "input":
                handle = site.module.register_forward_pre_hook(lambda _, args, gate=gate: (gate(args[0]), *args[1:]))
            else:
                handle = site.module.register_forward_hook(lambda _, __, output, gate=gate: gate(output))
            hooks.callback(handle.remove)
        yield


def open_gates(sites: Sequence[UnitSite], rows: int) -> dict[str, Tensor]:
    """Gates of 1 for each row and unit, as leaves that gradients reach: [rows, units] by name."""
    return {
        site.name: torch.ones(
            rows, site.count, dtype=_wide(site), device=site.incoming[0].parameters[0][0].device, requires_grad=True
        )
        for site in sites
    }


def _times(gate: Tensor, units: int, x: Tensor) -> Tensor:
    apart = x.reshape(len(gate), -1, units, x.shape[-1] // units)
    return (apart * gate.to(x.dtype)[:, None, :, None]).reshape(x.shape)


def _wide(site: UnitSite) -> torch.dtype:
    return torch.promote_types(site.incoming[0].parameters[0][0].dtype, torch.float32)


def _read(found: FeatureMap) -> int:
    """Number of a map's inputs."""
    weight, axis = found.parameters[0]
    return int(weight.shape[1 - axis])


def _heads(model: nn.Module, place: str) -> int:
    config: Any = config_of(model)
    architecture = architecture_of(config)
    if architecture is not None and architecture.is_in_decoder(place) and hasattr(config, "decoder_attention_heads"):
        return int(config.decoder_attention_heads)
    return int(config.num_attention_heads)
