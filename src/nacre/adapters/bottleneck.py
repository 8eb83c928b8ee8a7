"""Bottleneck adapters behind attention and feed-forward (Houlsby et al., 2019), one for all tasks or one a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, FeatureMap, kaiming_uniform
from nacre.adapters.bottleneck_slots import BottleneckSlots
from nacre.adapters.route import Route
from nacre.adapters.routed import answered_by, gate_weights, segments_of_rows, slot_rows, weights_of_rows
from nacre.adapters.site import Site, is_hooked
from nacre.adapters.sites import PlacedSites
from nacre.adapters.slots_on_disk import SlotsOfSite
from nacre.adapters.unit_gates import GatedUnits, HardGates, Protected, UnitGates, Units, check_shared, rows_gated
from nacre.errors import RecipeError
from nacre.functional.bottleneck import Nonlinearity
from nacre.functional.segments import NONE, Segments
from nacre.models.fit import Form
from nacre.models.roles import find_linears
from nacre.seeds import derive

GATES = ("gate_hidden", "gate_output")


@final
@dataclass(frozen=True)
class Bottleneck(Adapter):
    """`h <- h + U f(D h + b) + c`, h the output of a linear map of the frozen host: [..., d].

    Attributes:
        reduction: The bottleneck has m = d / reduction hidden units, at least one.
        nonlinearity: f.
        start: `identity`: U = 0, so that the host's function is kept to the bit; `near_identity`: D and U are drawn
            from a normal distribution of deviation 0.01, cut at two deviations.
        slots: `shared`: one for the whole sequence of tasks; `per_task`: a new one each task, earlier ones frozen.
        roles: Roles of the linear maps that carry it (`models/roles`).
        modules: Endings of the maps' names, instead of roles.
        gates: Of a shared slot's units, one for each task: on the m hidden ones, behind f, and on the d outputs; None:
            none.
    """

    learning_rate: ClassVar[float] = 1e-4  # ContinualLM
    sum_gated: ClassVar[bool] = False

    reduction: int = 16
    nonlinearity: Nonlinearity = "gelu"
    start: Literal["identity", "near_identity"] = "identity"
    slots: Literal["shared", "per_task"] = "shared"
    roles: tuple[str, ...] = ("output", "ffn_out")
    modules: tuple[str, ...] = ()
    gates: HardGates | None = None

    def __post_init__(self) -> None:
        if self.gates is not None:
            check_shared(self.slots)
        if self.reduction < 1:
            raise RecipeError(
                f"reduction: {self.reduction} is not a positive number; the bottleneck has d / reduction."
            )

    @property
    def copied_by_task(self) -> bool:
        return True

    @property
    def weighable(self) -> bool:
        return self.grows

    @property
    def grows(self) -> bool:
        return self.slots == "per_task" or self.gates is not None

    @property
    def can_stay_on_disk(self) -> bool:
        return self.slots == "per_task"

    @property
    def groups(self) -> tuple[str, ...]:
        return ("down", "down_bias", "up", "up_bias", *(() if self.gates is None else GATES))

    def gated(self, gates: HardGates) -> Bottleneck | None:
        """The same with a gate on each hidden unit and each output."""
        return replace(self, gates=gates) if self.slots == "shared" else None

    def place(self, model: nn.Module) -> PlacedBottleneck:
        return PlacedBottleneck(model, self)


@final
class BottleneckSite(Site):
    """A linear map with bottleneck adapters on its output.

    Attributes:
        settings: The adapter's settings.
        slots: The adapters of all tasks.
        gates: The gates of the hidden units and of the outputs, by group; empty without gates.
        rows: The slot that answers each row of the batch, or the weights of all slots for each row [B, t]; None: the
            newest slot.
    """

    def __init__(self, base: nn.Module, settings: Bottleneck) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
        """
        super().__init__(base)
        self.settings = settings
        hidden = max(1, self.d_out // settings.reduction)
        like = self.new_tensor(0)
        self.slots = BottleneckSlots(hidden, self.d_out, settings.nonlinearity, like=like)
        sizes = dict(zip(GATES, (hidden, self.d_out), strict=True)) if settings.gates is not None else {}
        self.gates = nn.ModuleDict(
            {name: UnitGates(settings.gates, units, like=like) for name, units in sizes.items() if settings.gates}
        )
        self.rows: Segments | Tensor | None = None
        self._is_new = False  # whether the newest slot has not begun yet

    @property
    def is_open(self) -> bool:
        return self.slots.is_open

    def adapted(self, x: Tensor) -> Tensor:
        """`h + U f(D h + b) + c` of the newest slot, or row by row what `rows` says."""
        h = self.untouched(x)
        read = h.to(self.slots.dtype)
        if isinstance(self.rows, Segments):
            return self.by_slot(h, read, segments_of_rows(self.rows, h))
        if self.rows is None:
            return h + self.newest(read).to(h.dtype)
        return h + self.slots.mixed(read, weights_of_rows(self.rows, h)).to(h.dtype)

    def by_slot(self, h: Tensor, read: Tensor, segments: Segments) -> Tensor:
        """h with what the slot of each row adds; rows without a slot keep every bit: read is h in the adapter's type.

        In training, and where hooks wait for it, the newest adapter is called as a module, even where it answers no
        row, so that every trained parameter has a gradient. Otherwise it is one slot like the others.
        """
        newest = len(self.slots) - 1
        is_measured = is_hooked(self.slots.down) or is_hooked(self.slots.up)
        is_called = self.training or is_measured
        others = segments.without(newest) if is_called else segments
        added = self.slots.added_to(h, read, others) if others.counts else h
        if not is_called:
            return added
        layout = segments.only(newest).layout(h.device, are_sorted=True)
        # Who measures it counts all tokens of a batch.
        update = layout.take(self.newest(read)) if is_measured else self.newest(layout.take(read))
        return layout.add(added, update.to(h.dtype))

    def newest(self, h: Tensor) -> Tensor:
        """`U f(D h + b) + c` of the newest slot, its units gated where there are gates: h [..., d] -> [..., d]."""
        if not self.gates:
            return self.slots.newest(h)
        hidden, output = self.unit_gates()
        gated: Tensor = output(self.slots.up(hidden(self.slots.codes(h))))
        return gated

    def unit_gates(self) -> tuple[UnitGates, ...]:
        """The gates of the hidden units and of the outputs; none without gates."""
        return tuple(gates for gates in self.gates.values() if isinstance(gates, UnitGates))

    def grow(self) -> bool:
        """Freeze the newest slot and open another; a shared slot is opened once and stays, its gates do not."""
        for gates in self.unit_gates():
            gates.open()
        self._is_new = not self.is_open or self.settings.slots == "per_task"
        if not self._is_new:
            for parameter in self.slots.parameters_by_group().values():
                parameter.requires_grad_(True)
            return bool(self.gates)
        if self.is_open:
            self.slots.push_to_past()
        self.slots.open()
        return True

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        for name, gates in zip(GATES, self.unit_gates(), strict=False):
            gates.fresh(derive(seed, name))
        if self._is_new:
            self._fresh_adapter(seed)

    def _fresh_adapter(self, seed: int) -> None:
        down, down_bias, up, up_bias = self.slots.parameters_by_group().values()
        down_bias.zero_()
        up_bias.zero_()
        if self.settings.start == "identity":
            down.copy_(kaiming_uniform(down.shape, derive(seed, "down")))
            up.zero_()
            return
        for name, parameter in (("down", down), ("up", up)):
            generator = torch.Generator().manual_seed(derive(seed, name))
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            parameter.copy_(nn.init.trunc_normal_(drawn, std=0.01, a=-0.02, b=0.02, generator=generator))

    def freeze(self) -> None:
        self.stop_newest()

    def close(self) -> None:
        self.slots.close()
        for gates in self.unit_gates():
            gates.close()

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        gates = dict(zip(GATES, (gates.embedding for gates in self.unit_gates()), strict=False))
        return self.slots.parameters_by_group() | gates

    def protected(self) -> list[Protected]:
        """The adapter's parameters with the gated units at their ends; what D reads belongs to the host."""
        hidden, output = self.unit_gates()
        down, down_bias, up, up_bias = self.slots.parameters_by_group().values()
        return [
            Protected(down, (Units(hidden, 0),)),
            Protected(down_bias, (Units(hidden, 0),)),
            Protected(up, (Units(output, 0), Units(hidden, 1))),
            Protected(up_bias, (Units(output, 0),)),
        ]

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """D by its own output [m] before f, U by its own [d]; each with its bias."""
        down, down_bias, up, up_bias = self.slots.parameters_by_group().values()
        return [
            FeatureMap(f"{place}.down", place, roles, self.slots.down, ((down, 0), (down_bias, 0))),
            FeatureMap(f"{place}.up", place, roles, self.slots.up, ((up, 0), (up_bias, 0))),
        ]

    def public_tensors(self) -> dict[str, Tensor]:
        tensors = self.slots.public_tensors()
        for name, gates in zip(GATES, self.unit_gates(), strict=False):
            tensors |= gates.public_tensors(name)
        return tensors

    def forms(self, tasks: int) -> dict[str, Form]:
        forms = self.slots.forms(1 if self.settings.slots == "shared" else tasks)
        for name, gates in zip(GATES, self.unit_gates(), strict=False):
            forms |= gates.forms(name, tasks)
        return forms

    def leave_on_disk(self, earlier: SlotsOfSite) -> None:
        self.slots.on_disk = earlier

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.slots.load_public(tensors)
        for name, gates in zip(GATES, self.unit_gates(), strict=False):
            gates.load_public(name, tensors)

    def effective_weight(self) -> Tensor | None:
        return None

    def settle(self) -> None:
        if isinstance(self.rows, Segments) and self.rows.numbers[0] == NONE:
            self.close()
        elif self.rows is not None:
            first = self.rows.numbers[0] if isinstance(self.rows, Segments) else int(self.rows[0].argmax())
            self.slots.keep_only(first)
        self.rows = None
        for gates in self.unit_gates():
            gates.settle()


@final
class PlacedBottleneck(PlacedSites[BottleneckSite], GatedUnits):
    """All bottleneck adapters in one host.

    Attributes:
        settings: The adapter's settings.
    """

    def __init__(self, model: nn.Module, settings: Bottleneck) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.
        """
        linears = find_linears(model, settings.roles, settings.modules)
        rates = {} if settings.gates is None else dict.fromkeys(GATES, settings.gates.rate)
        super().__init__(model, linears, lambda base: BottleneckSite(base, settings), rates)
        self.settings = settings

    def unit_gates(self) -> list[UnitGates]:
        return [gates for site in self.sites.values() for gates in site.unit_gates()]

    def protected(self) -> list[Protected]:
        return [protected for site in self.sites.values() for protected in site.protected()]

    def copy_slot(self, slot: int) -> None:
        """Let the newest slot begin as an earlier one, from 0, at every site."""
        for site in self.sites.values():
            site.slots.copy_from(slot)

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """While open, slots or gates answer row by row; where the route names none, the newest ones answer."""
        if self.settings.gates is not None:
            with rows_gated(self.unit_gates(), gate_weights(route, self.tasks)):
                yield
            return
        rows = slot_rows(route, self.tasks, are_own=self.settings.slots == "per_task")
        with answered_by(self.sites.values(), rows), self.brought(rows):
            yield

    def folding_summary(self) -> dict[str, Any]:
        """Empty: what an adapter adds is not linear in its input, so that nothing can be folded."""
        return {}
