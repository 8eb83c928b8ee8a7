"""LoRA, one for all tasks or one a task with the earlier ones frozen and summed (AM-LoRA Eqs. 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap, kaiming_uniform
from nacre.adapters.folding import FoldedWeight, Folding
from nacre.adapters.route import Route
from nacre.adapters.routed import answered_by, gate_weights, mixed_slots, segments_of_rows, slot_rows
from nacre.adapters.site import is_hooked
from nacre.adapters.slots import SlotStack
from nacre.adapters.slots_on_disk import SlotsOfSite
from nacre.adapters.slotted import PlacedSlots, SlottedAdapter, SlottedSite
from nacre.adapters.unit_gates import GatedUnits, HardGates, Protected, UnitGates, Units, check_shared, rows_gated
from nacre.errors import ModelError, RecipeError
from nacre.functional.fused_low_rank import fused_update
from nacre.functional.grouped import slot_updates
from nacre.functional.low_rank import folded_weight, summed_update
from nacre.functional.segments import Segments
from nacre.functional.sensitivity import Triplets
from nacre.models.fit import Form
from nacre.seeds import derive


@final
@dataclass(frozen=True)
class LowRank(SlottedAdapter):
    """`h = W x + s (B_t A_t + sum_{i<t} B_i A_i) x`; with a shared slot there is no sum.

    With a branch (CoDe-LoRA) slot t is trained on top of `Co_{t-1}`, `h = W x + Co_{t-1} x + s B_t A_t x`, and is valid
    only there: a route that chooses it chooses both. Once learned, it is taken into the branch
    (`functional/consolidation`), and where no route chooses, the branch answers alone: `h = W x + Co_t x`.

    Attributes:
        gates: Of a shared slot's ranks, one for each task, between A and B: `h = W x + s B (a (*) A x)`; None: none.
        trains: 'both' factors, or only the 'up' factor B: A stays where its start puts it then.
        branch: Whether there is a branch, of the slots' rank. Its state after each task is kept beside the slots.
    """

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = True

    gates: HardGates | None = None
    trains: Literal["both", "up"] = "both"
    branch: bool = False

    def __post_init__(self) -> None:
        self.check_slots()
        if self.branch and (self.slots == "shared" or self.from_start):
            raise RecipeError("branch: it takes in a slot for each task, whose update is B A as it stands.")
        if self.gates is not None:
            check_shared(self.slots)
            if self.trains == "up":
                raise RecipeError("trains: gates on the ranks protect both factors of one slot; train both.")

    @property
    def has_branch(self) -> bool:
        return self.branch

    @property
    def copied_by_task(self) -> bool:
        return self.gates is not None

    @property
    def weighable(self) -> bool:
        return self.grows

    @property
    def grows(self) -> bool:
        return self.slots == "per_task" or self.gates is not None

    @property
    def groups(self) -> tuple[str, ...]:
        factors = ("down", "up") if self.trains == "both" else ("up",)
        return (*factors, *(() if self.gates is None else ("gate",)))

    def gated(self, gates: HardGates) -> LowRank | None:
        """The same with a gate on each rank."""
        return replace(self, gates=gates) if self.slots == "shared" and self.trains == "both" else None

    def place(self, model: nn.Module) -> PlacedLowRank:
        return PlacedLowRank(model, self, self.gates)

    def site(self, base: nn.Module) -> LowRankSite:
        return LowRankSite(base, self, self.gates)

    def start(self, slots: SlotStack, seed: int) -> None:
        """A as a dense layer begins, B zero."""
        lora_start(slots, seed)


@torch.no_grad()
def lora_start(slots: SlotStack, seed: int) -> None:
    """The usual start of a LoRA: A as a dense layer begins, B zero, so that the update begins at zero."""
    slots.down.weight.copy_(kaiming_uniform(slots.down.weight.shape, derive(seed, "down")))
    slots.up.weight.zero_()


@final
class LowRankSite(SlottedSite):
    """A linear map with the sum of the tasks' low-rank updates.

    Public tensors (t tasks so far): `down.weight` [r, d_in], `up.weight` [d_out, r] of the newest task; `past_down`
    [t-1, r, d_in], `past_up` [t-1, r, d_out], frozen; with an SVD's sigma also `sigma` [r], `past_sigma` [t-1, r];
    where updates count from their start, `origin_down` [t-1, r, d_in], `origin_up` [t-1, r, d_out] of the second to the
    newest task, frozen: what their updates began with, which is part of the frozen sum with the other sign; of a branch
    `branch_down` [t, r, d_in], `branch_up` [t, r, d_out], its factors after each task, frozen, without `s`; of gated
    ranks `gate` [r], the newest task's e, and `past_gate` [t-1, r], frozen.

    Attributes:
        settings: The adapter's settings.
        gates: The gates of a shared slot's ranks; None without gates.
        working: Copies of the weight that the tasks' sums are part of.
        rows: The slot that answers each row of the batch, or the weights of all slots for each row [B, t]; None: the
            sum of all slots, or the branch.
    """

    def __init__(self, base: nn.Module, settings: SlottedAdapter, gates: HardGates | None = None) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
            gates: Those of the gates of a shared slot's ranks; None: they have none.
        """
        super().__init__(base, settings)
        self.settings = settings
        self.gates = None if gates is None else UnitGates(gates, settings.slot_rank, like=self.new_tensor(0))
        self.working = FoldedWeight()
        self.rows: Segments | Tensor | None = None

    @property
    def scale(self) -> float:
        return self.settings.scale

    def adapted(self, x: Tensor) -> Tensor:
        """`W x + s sum_{i<t} B_i A_i x + s B_t A_t x`, or row by row what `rows` says."""
        if isinstance(self.rows, Segments):
            return self.by_slot(x, segments_of_rows(self.rows, x))
        if self.rows is not None:
            return self.mixed(x, self.rows)
        if (weight := self.folded_all(x)) is not None:
            return self.base_with(x, weight)
        if self.slots.is_consolidated:
            h = self.untouched(x)
            return h + summed_update(self.own_type(x), *self.slots.all_summands(), scale=self.scale).to(h.dtype)
        if (frozen := self.fusible(x)) is not None:
            return self.fused(x, *frozen)
        h = self.past(x)
        return h + (self.scale * self.newest(self.dropped(x))).to(h.dtype)

    def newest(self, x: Tensor) -> Tensor:
        """`B_t A_t x`, or `B (a (*) A x)` with gates, without the scale: x in the adapter's type."""
        if self.gates is None:
            return self.slots.newest(x)
        update: Tensor = self.slots.up(self.gates(self.slots.down(x)))
        return update

    def newest_up(self) -> Tensor:
        """`B_t`, or `B diag(a)` with gates that all rows have, [d_out, r]."""
        up = self.slots.newest_up()
        return up if self.gates is None else up * self.gates.present()

    def by_slot(self, x: Tensor, segments: Segments) -> Tensor:
        """`W x_b + s B_i A_i x_b`, i the slot of row b; `W x_b` to the bit where it has none.

        In training, and where hooks wait for its factors, the newest slot is called as it is elsewhere; all rows of it
        are then those of a plain LoRA, bit for bit. Otherwise it is one slot like the others.
        """
        newest = len(self.slots) - 1
        is_called = self.training or is_hooked(self.slots.down) or is_hooked(self.slots.up)
        if is_called and segments.is_all(newest) and (plain := self.fusible(x, alone=True)) is not None:
            return self.fused(x, *plain)
        h, own = self.untouched(x), self.own_type(x)
        others = segments.without(newest) if is_called else segments
        if others.counts:
            h = slot_updates(h, own, *self.slots.pairs_of(others), others, scale=self.scale)
        return self.with_newest(h, own, segments.only(newest)) if is_called else h

    def with_newest(self, h: Tensor, x: Tensor, segments: Segments) -> Tensor:
        """h with `s B_t A_t x_b` of the rows that the newest slot answers, by calls of its factors: x in its type.

        They are called even where it answers none, so that every trained parameter has a gradient.
        """
        layout = segments.layout(x.device, are_sorted=True)
        if is_hooked(self.slots.down) or is_hooked(self.slots.up):  # who measures them counts all tokens of a batch
            update = layout.take(self.newest(self.dropped(x)))
        else:
            update = self.newest(self.dropped(layout.take(x)))
        h = layout.add(h, (self.scale * update).to(h.dtype))
        if not self.slots.has_companions or len(self.slots) == 1 or not segments.counts:
            return h
        down, up = self.slots.companion_of(len(self.slots) - 1)
        return slot_updates(h, x, down.unsqueeze(0), up.unsqueeze(0), segments, scale=self.scale)

    def mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        """`W x + sum_i w_bi s B_i A_i x`, weights [B, t]."""
        h = self.untouched(x)
        update = mixed_slots(self.own_type(x), self.dropped(x), self.slots, weights, scale=self.scale)
        return h + update.to(h.dtype)

    def past(self, x: Tensor) -> Tensor:
        """The frozen part `W x + s sum_{i<t} B_i A_i x`, through the folded weight where there is one."""
        if (weight := self.working.past_for(x)) is not None:
            return self.base_with(x, weight)
        h = self.untouched(x)
        if self.slots.earlier == 0:
            return h
        return h + summed_update(self.own_type(x), *self.slots.frozen_summands(), scale=self.scale).to(h.dtype)

    def folded_all(self, x: Tensor) -> Tensor | None:
        """The one matrix that holds all tasks, in evaluation and where no hook sits on the site's factors."""
        if self.training or is_hooked(self.slots.down) or is_hooked(self.slots.up):
            return None
        return self.working.all_for(x, self.parameters_by_group().values())

    def fusible(self, x: Tensor, *, alone: bool = False) -> tuple[Tensor, Tensor | None] | None:
        """The frozen matrix [d_out, d_in] and bias below the newest update, if the hand-written backward pass applies.

        That matrix holds the earlier updates, or, where the newest one stands `alone`, none of them; a branch lies
        below it in both cases. The pass supports one type, gives no gradient of the matrix, and does not call `up`. It
        takes one B for all rows. Gated answers never go through it, so that a row's has the same bits whoever stands
        beside it.
        """
        slots, folded = self.slots, self.working.folded
        alone = alone and not slots.has_branch
        if self.gates is not None and (self.gates.row_weights is not None or not self.training):
            return None
        if x.dtype != slots.dtype or torch.is_autocast_enabled(x.device.type) or is_hooked(slots.up):
            return None
        if slots.down._backward_hooks or slots.down._backward_pre_hooks:
            return None
        base = self.plain_base(x.dtype)
        is_last = slots.earlier == 0
        if base is None or not (is_last or (not slots.from_start if alone else folded is not None)):
            return None
        weight = base[0] if alone or folded is None else folded
        return None if weight.requires_grad else (weight, base[1])

    def fused(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`W' x + bias + s B_t A_t x` in one function (`functional/fused_low_rank`), weight [d_out, d_in]: `W'`."""
        seen = self.dropped(x)
        with torch.no_grad():
            codes = self.slots.down(seen)  # called, because hooks may wait for its call (`feature_maps`)
        return fused_update(x, seen, codes, self.slots.down.weight, self.newest_up(), weight, bias, scale=self.scale)

    def grow(self) -> bool:
        """Freeze the newest slot and open another; a shared slot is opened once and stays, its gates do not."""
        if self.gates is not None:
            self.gates.open()
        if self.is_open and self.settings.slots == "shared":
            self.working.clear()
            self.train_newest()
            return self.gates is not None
        self.consolidate()
        is_folded = self.is_open and self.working.push_to_past(self.parameters_by_group().values())
        if self.is_open:
            self.slots.push_to_past()
        self.slots.open()
        if not is_folded:
            self.fold_past()
        return True

    def consolidate(self) -> None:
        """Let the branch take the newest slot in, if there is a branch and it has not."""
        if self.slots.has_branch and self.is_open and not self.slots.is_consolidated:
            self.slots.consolidate()

    def fold_past(self) -> None:
        """Form the working weight of the earlier tasks anew."""
        self.working.fold_past(self, *self.slots.frozen_summands(), scale=self.scale)

    def write(self, new: Triplets) -> None:
        """Put triplets [r, ...] into the newest slot; where it counts from its start, they leave the frozen part."""
        super().write(new)
        if self.settings.from_start:
            self.fold_past()

    def fresh(self, seed: int) -> None:
        if self.gates is not None:
            self.gates.fresh(derive(seed, "gate"))
            if len(self.gates.past):
                return  # the shared slot goes on from where it is
        self.settings.start(self.slots, seed)

    @torch.no_grad()
    def freeze(self) -> None:
        self.stop_newest()
        self.consolidate()
        if self.gates is not None or self.slots.on_disk is not None:
            return  # no one weight holds the updates of all tasks
        parameters = self.parameters_by_group().values()
        self.working.fold_all(self, *self.slots.all_summands(), scale=self.scale, parameters=parameters)

    def close(self) -> None:
        self.slots.close()
        self.working.clear()
        if self.gates is not None:
            self.gates.close()

    @property
    def past_weight(self) -> Tensor | None:
        return self.working.folded

    @contextmanager
    def past_open(self) -> Iterator[dict[str, Tensor]]:
        with self.working.set_aside(), self.slots.past_as_leaves() as leaves:
            yield leaves

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        gate = {} if self.gates is None else {"gate": self.gates.embedding}
        return self.slots.parameters_by_group() | gate

    def protected(self) -> list[Protected]:
        """A and B with the gated ranks at one end; what A reads and B writes belongs to the host."""
        assert self.gates is not None
        down, up = self.slots.parameters_by_group().values()
        return [Protected(down, (Units(self.gates, 0),)), Protected(up, (Units(self.gates, 1),))]

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        return self.factor_maps(place, roles, input_of=None)

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """`W + s sum_{i<=t} B_i A_i`, or `W + Co_t`, [d_out, d_in]; with gates those of the newest task.

        Raises:
            ModelError: The base is not a plain linear layer.
        """
        if (obstacle := self.why_not_plain()) is not None:
            raise ModelError(
                f"Updates cannot be added to a weight here: {obstacle}. Take the host whole and without quantization "
                "to merge updates or to compare rows of weights."
            )
        base = self.base_weight().to(self.slots.dtype)
        if not self.is_open:
            return base
        if self.slots.is_consolidated:
            return folded_weight(base, *self.slots.all_summands(), scale=self.scale)
        past = folded_weight(base, *self.slots.frozen_summands(), scale=self.scale)
        newest = self.newest(torch.eye(self.d_in, dtype=past.dtype, device=past.device))
        return past + self.scale * newest.T

    def public_tensors(self) -> dict[str, Tensor]:
        return self.slots.public_tensors() | ({} if self.gates is None else self.gates.public_tensors("gate"))

    def forms(self, tasks: int) -> dict[str, Form]:
        gate = {} if self.gates is None else self.gates.forms("gate", tasks)
        return self.slots.forms(self.number_after(tasks)) | gate

    def leave_on_disk(self, earlier: SlotsOfSite) -> None:
        self.slots.on_disk = earlier

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.slots.load_public(tensors)
        if self.gates is not None:
            self.gates.load_public("gate", tensors)

    def settle(self) -> None:
        if self.gates is not None:
            self.gates.settle()


@final
class PlacedLowRank(PlacedSlots[LowRankSite], GatedUnits):
    """All sites of a summed low-rank adapter in one host.

    Attributes:
        settings: The adapter's settings.
        is_gated: Whether each task has gates of its own on a shared slot's ranks.
    """

    def __init__(self, model: nn.Module, settings: SlottedAdapter, gates: HardGates | None = None) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.
            gates: Those of the gates of a shared slot's ranks; None: they have none.
        """
        rates = {} if gates is None else {"gate": gates.rate}
        super().__init__(model, settings.linears(model), lambda base: LowRankSite(base, settings, gates), rates)
        self.settings = settings
        self.is_gated = gates is not None

    def consolidate(self) -> None:
        """Let the branch take the newest slot in, if it has not; `freeze` does, too."""
        for site in self.sites.values():
            site.consolidate()

    @torch.no_grad()
    def take(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        if self.is_gated or any(site.slots.has_sigma or site.slots.fixes_down for site in self.sites.values()):
            super().take(factors)
        if missing := sorted(self.sites.keys() ^ factors.keys()):
            where = "the adapter" if missing[0] in self.sites else "the method"
            raise ModelError(f"'{missing[0]}' carries no LoRA in {where}: both must have the same linear maps.")
        for name, site in self.sites.items():
            down, up = factors[name]
            if (down.shape, up.shape) != (site.slots.down.weight.shape, site.slots.up.weight.shape):
                raise ModelError(
                    f"'{name}' has a LoRA of the shapes {tuple(down.shape)} and {tuple(up.shape)}; "
                    f"{tuple(site.slots.down.weight.shape)} and {tuple(site.slots.up.weight.shape)} belong there."
                )
            site.slots.down.weight.copy_(down)
            site.slots.up.weight.copy_(up)

    def unit_gates(self) -> list[UnitGates]:
        return [site.gates for site in self.sites.values() if site.gates is not None]

    def protected(self) -> list[Protected]:
        return [protected for site in self.sites.values() for protected in site.protected()]

    def drop(self, slot: int) -> None:
        settings = self.settings
        if settings.slots == "shared" or settings.from_start or settings.has_branch or self.on_disk is not None:
            super().drop(slot)
        tensors: dict[str, Tensor] = {}
        if self.tasks > 1:
            for name, site in self.sites.items():
                tensors |= {f"{name}.{kind}": tensor for kind, tensor in site.slots.tensors_without(slot).items()}
        self.load(tensors, {"slots": self.tasks - 1} if tensors else {})

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """While open, row b gets `s B_i A_i x` or `sum_i w_bi s B_i A_i x` in place of the sum, or its task's gates."""
        if self.is_gated:
            with rows_gated(self.unit_gates(), gate_weights(route, self.tasks)):
                yield
            return
        rows = slot_rows(route, self.tasks, are_own=self.settings.slots == "per_task")
        with answered_by(self.sites.values(), rows), self.brought(rows):
            yield

    def folding(self) -> dict[str, Folding]:
        """Whether each site's tasks are folded, by name, for sites that have something to fold."""
        foldings = {name: site.working.folding for name, site in self.sites.items()}
        return {name: folding for name, folding in foldings.items() if folding is not None}

    def folding_summary(self) -> dict[str, Any]:
        foldings = self.folding().values()
        if not foldings:
            return {}
        ratios = [folding.ratio for folding in foldings if folding.ratio is not None and math.isfinite(folding.ratio)]
        return {
            "sites": len(foldings),
            "folded": sum(folding.obstacle is None for folding in foldings),
            "obstacles": sorted({folding.obstacle for folding in foldings if folding.obstacle is not None}),
            "ratios": [min(ratios), max(ratios)] if ratios else None,
        }
