"""HAT on the host itself: attention heads and feed-forward units are gated, and the host's own weights are trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import Adapter, FeatureMap, PlacedAdapter
from nacre.adapters.placed_full import PlacedFull, host_feature_maps
from nacre.adapters.route import Route
from nacre.adapters.routed import gate_weights
from nacre.adapters.site import pristine_tensors, put_sites, take_away
from nacre.adapters.unit_gate_site import UnitGateSite
from nacre.adapters.unit_gates import GatedUnits, HardGates, Protected, UnitGates, Units, rows_gated
from nacre.errors import RecipeError
from nacre.models.architectures import architecture_of, config_of
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.roles import find_linears, roles_of
from nacre.seeds import derive

GatedKind = Literal["heads", "ffn"]

HOST_UNITS: tuple[GatedKind, ...] = ("heads", "ffn")
"""All kinds."""

READ_BY = {"heads": "output", "ffn": "ffn_out"}
"""The role of the linear map that reads the gated units."""

WRITTEN_BY = {"heads": ("query", "key", "value"), "ffn": ("ffn_in", "ffn_gate")}
"""Roles of the linear maps that make them."""


@final
@dataclass(frozen=True)
class GatedHost(Adapter):
    """All parameters of the host on the first task; later those at gated units. Every task has gates of its own.

    Attributes:
        units: What is gated: attention `heads`, and units of the feed-forward blocks (`ffn`).
        gates: The gates' settings.
    """

    learning_rate: ClassVar[float] = 1e-4
    sum_gated: ClassVar[bool] = False

    units: tuple[GatedKind, ...] = HOST_UNITS
    gates: HardGates = field(default_factory=HardGates)

    def __post_init__(self) -> None:
        if not self.units:
            raise RecipeError("units: nothing is gated; take heads, ffn or both.")

    @property
    def copied_by_task(self) -> bool:
        return True

    @property
    def weighable(self) -> bool:
        return True

    @property
    def grows(self) -> bool:
        return True

    @property
    def groups(self) -> tuple[str, ...]:
        return ("host", "gate")

    def place(self, model: nn.Module) -> PlacedGatedHost:
        return PlacedGatedHost(model, self)


@final
class PlacedGatedHost(PlacedAdapter, GatedUnits):
    """The host's own parameters, and gates in front of the maps that read its heads and feed-forward units.

    Attributes:
        settings: The adapter's settings.
        full: The host's parameters, and their pristine copy.
        sites: The gates by the names of the maps that read the units.
        maps: The host's linear maps, feature by feature.
    """

    def __init__(self, model: nn.Module, settings: GatedHost) -> None:
        """Put the gates into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.

        Raises:
            ModelError: The architecture is not known, or every parameter of the host is frozen.
        """
        self.maps = host_feature_maps(model)
        self.full = PlacedFull(model)
        super().__init__(model)
        self.trained_before = self.full.trained_before
        self.settings = settings
        self._ends: dict[int, tuple[Units, ...]] = {}
        readers: dict[str, tuple[nn.Module, int]] = {}
        for kind in settings.units:
            for name, reader in find_linears(model, (READ_BY[kind],)).items():
                readers[name] = (reader, _heads(model, name) if kind == "heads" else _width(reader))
        makers = find_linears(model, [role for kind in settings.units for role in WRITTEN_BY[kind]])
        sizes = {id(reader): units for reader, units in readers.values()}
        self.sites = put_sites(
            model,
            {name: reader for name, (reader, _) in readers.items()},
            lambda base: UnitGateSite(base, settings.gates, sizes[id(base)]),
        )
        for site in self.sites.values():
            numbers = torch.arange(site.d_in, device=site.gates.past.device) // (site.d_in // site.gates.units)
            axis = 0 if isinstance(site.base, Conv1D) else 1
            self._add_end(site.base.weight, Units(site.gates, axis, numbers))
        for name, maker in makers.items():
            self._add_maker(name, maker)

    def _add_maker(self, name: str, maker: nn.Module) -> None:
        """Note to which units the rows of a linear map, and of its bias, belong."""
        kinds = {kind for kind in self.settings.units if set(roles_of(self.model, name)) & set(WRITTEN_BY[kind])}
        (kind,) = kinds
        candidates = [other for other in self.sites if READ_BY[kind] in roles_of(self.model, other)]
        site = self.sites[max(candidates, key=lambda other: _common_parts(name, other))]
        is_conv = isinstance(maker, Conv1D)
        assert isinstance(maker.weight, nn.Parameter)
        rows = maker.weight.shape[1 if is_conv else 0]
        numbers = _unit_of_row(self.model, name, rows, site).to(site.gates.past.device)
        self._add_end(maker.weight, Units(site.gates, 1 if is_conv else 0, numbers))
        if maker.bias is not None:
            self._add_end(maker.bias, Units(site.gates, 0, numbers))

    def _add_end(self, parameter: object, end: Units) -> None:
        assert isinstance(parameter, nn.Parameter)
        self._ends[id(parameter)] = (*self._ends.get(id(parameter), ()), end)

    def unit_gates(self) -> Sequence[UnitGates]:
        return [site.gates for site in self.sites.values()]

    def protected(self) -> Sequence[Protected]:
        """Those of the trained parameters that lie at gated units; the others stay as the first task left them."""
        return [
            Protected(parameter, self._ends[id(parameter)])
            for parameter in self.full.trained.values()
            if id(parameter) in self._ends
        ]

    def grow(self) -> bool:
        self.tasks += 1
        self.full.tasks += 1
        for site in self.sites.values():
            site.grow()
        for parameter in self._trained():
            parameter.requires_grad_(True)
        return True

    def fresh(self, seed: int) -> None:
        """Draw the gates; the host goes on from its present values."""
        for name, site in self.sites.items():
            site.fresh(derive(seed, name))

    def _trained(self) -> tuple[nn.Parameter, ...]:
        own = self.full.trained.values()
        return tuple(parameter for parameter in own if self.tasks == 1 or id(parameter) in self._ends)

    def parameter_groups(self) -> list[ParameterGroup]:
        if self.tasks == 0:
            return []
        gates = tuple(site.gates.embedding for site in self.sites.values())
        return [ParameterGroup("host", self._trained()), ParameterGroup("gate", gates, self.settings.gates.rate)]

    def feature_maps(self) -> list[FeatureMap]:
        own = {id(parameter) for parameter in self._trained()}
        return [found for found in self.maps if all(id(parameter) in own for parameter, _ in found.parameters)]

    def tensors(self) -> dict[str, Tensor]:
        if self.tasks == 0:
            return {}
        gates = {
            f"{name}.{kind}": tensor
            for name, site in self.sites.items()
            for kind, tensor in site.public_tensors().items()
        }
        return self.full.tensors() | gates

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        tasks = count_of("adapter", values, "slots")
        forms: dict[str, Form] = {}
        if tasks:
            forms = {name: Form.of(parameter) for name, parameter in self.full.trained.items()}
            for name, site in self.sites.items():
                forms |= {f"{name}.{kind}": form for kind, form in site.forms(tasks).items()}
        check_fit("adapter", tensors, forms)
        self.tasks = self.full.tasks = tasks
        for site in self.sites.values():
            site.close()
        if tasks == 0:
            self.full.take_out()
            return
        for name, parameter in self.full.trained.items():
            parameter.copy_(tensors[name])
        for name, site in self.sites.items():
            site.load_public({kind: tensors[f"{name}.{kind}"] for kind in site.forms(tasks)})
        self.freeze()

    def freeze(self) -> None:
        stop_training(self.parameter_groups())

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.full.bypassed())
            for site in self.sites.values():
                stack.callback(setattr, site, "is_bypassed", site.is_bypassed)
                site.is_bypassed = True
            yield

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """While open, each row is gated by the tasks that its weights name."""
        with rows_gated(self.unit_gates(), gate_weights(route, self.tasks)):
            yield

    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        return ()

    def pristine(self) -> dict[str, Tensor]:
        own = {parameter.data_ptr(): self.full.untrained[name] for name, parameter in self.full.trained.items()}
        found = pristine_tensors(self.model, self.sites)
        return {name: own.get(tensor.data_ptr(), tensor) for name, tensor in found.items()}

    def take_out(self) -> None:
        self.full.take_out()
        take_away(self.model, self.sites)

    def folding_summary(self) -> dict[str, Any]:
        """Empty: gates belong to tasks, so that nothing can be folded."""
        return {}


def _common_parts(name: str, other: str) -> int:
    """How many parts two modules' names begin with in common: the more, the nearer they are."""
    pairs = zip(name.split("."), other.split("."), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _width(reader: nn.Module) -> int:
    """The number of features that a linear map reads."""
    size = reader.nx if isinstance(reader, Conv1D) else reader.in_features
    return int(size)  # type: ignore[arg-type]


def _heads(model: nn.Module, name: str) -> int:
    """The number of heads that attention's output map reads."""
    config = config_of(model)
    architecture = architecture_of(config)
    in_decoder = architecture is not None and architecture.is_in_decoder(name)
    own = getattr(config, "decoder_attention_heads", None) if in_decoder else None
    return int(own or config.num_attention_heads)


def _unit_of_row(model: nn.Module, name: str, rows: int, site: UnitGateSite) -> Tensor:
    """The units that each row of a linear map makes, [rows, k]: of a key or value that k heads share, all of them."""
    units, width = site.gates.units, site.d_in // site.gates.units
    architecture = architecture_of(config_of(model))
    parts = len([role for role in roles_of(model, name) if role in ("query", "key", "value")]) or 1
    row = torch.arange(rows)
    if parts > 1 and architecture is not None and architecture.fused_by_head:
        return (row // (parts * width)).unsqueeze(1)
    made = rows // parts // width  # fewer than there are units, where heads share keys and values
    first = (row % (rows // parts)) // width * (units // made)
    return first.unsqueeze(1) + torch.arange(units // made)
