"""LoRA, one for all tasks or one a task with the earlier ones frozen and summed (AM-LoRA Eqs. 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap, kaiming_uniform
from nacre.adapters.folding import FoldedWeight, Folding
from nacre.adapters.route import Route
from nacre.adapters.routed import check_weights, routed_update
from nacre.adapters.site import is_hooked
from nacre.adapters.slots import SlotStack
from nacre.adapters.slotted import PlacedSlots, SlottedAdapter, SlottedSite
from nacre.errors import ModelError
from nacre.functional.fused_low_rank import fused_update
from nacre.functional.low_rank import folded_weight, summed_update
from nacre.functional.sensitivity import Triplets
from nacre.models.fit import Form
from nacre.seeds import derive


@final
@dataclass(frozen=True)
class LowRank(SlottedAdapter):
    """`h = W x + s (B_t A_t + sum_{i<t} B_i A_i) x`; with a shared slot there is no sum."""

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_slots()

    @property
    def groups(self) -> tuple[str, ...]:
        return ("down", "up")

    def place(self, model: nn.Module) -> PlacedLowRank:
        return PlacedLowRank(model, self)

    def site(self, base: nn.Module) -> LowRankSite:
        return LowRankSite(base, self)

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
    newest task, frozen: what their updates began with, which is part of the frozen sum with the other sign.

    Attributes:
        settings: The adapter's settings.
        working: Copies of the weight that the tasks' sums are part of.
        row_weights: Weight of each slot for each row of the batch [B, t]; None: the sum of all slots.
    """

    def __init__(self, base: nn.Module, settings: SlottedAdapter) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
        """
        super().__init__(base, settings)
        self.settings = settings
        self.working = FoldedWeight()
        self.row_weights: Tensor | None = None

    @property
    def scale(self) -> float:
        return self.settings.scale

    def adapted(self, x: Tensor) -> Tensor:
        """`W x + s sum_{i<t} B_i A_i x + s B_t A_t x`, or with `row_weights` `W x + sum_i w_bi s B_i A_i x`."""
        if self.row_weights is not None:
            return self.routed(x, self.row_weights)
        if (weight := self.folded_all(x)) is not None:
            return self.base_with(x, weight)
        if (frozen := self.fusible(x)) is not None:
            return self.fused(x, *frozen)
        h = self.past(x)
        return h + (self.scale * self.slots.newest(self.dropped(x))).to(h.dtype)

    def routed(self, x: Tensor, weights: Tensor) -> Tensor:
        """`W x + sum_i w_bi s B_i A_i x`, weights [B, t]."""
        h = self.untouched(x)
        update = routed_update(self.own_type(x), self.dropped(x), self.slots, weights, scale=self.scale)
        return h + update.to(h.dtype)

    def past(self, x: Tensor) -> Tensor:
        """The frozen part `W x + s sum_{i<t} B_i A_i x`, through the folded weight where there is one."""
        if (weight := self.working.past_for(x)) is not None:
            return self.base_with(x, weight)
        h = self.untouched(x)
        if len(self.slots.past_down) == 0:
            return h
        return h + summed_update(self.own_type(x), *self.slots.frozen_summands(), scale=self.scale).to(h.dtype)

    def folded_all(self, x: Tensor) -> Tensor | None:
        """The one matrix that holds all tasks, in evaluation and where no hook sits on the site's factors."""
        if self.training or is_hooked(self.slots.down) or is_hooked(self.slots.up):
            return None
        return self.working.all_for(x, self.parameters_by_group().values())

    def fusible(self, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The frozen matrix [d_out, d_in] and bias below the newest update, if the hand-written backward pass applies.

        That pass supports one type, gives no gradient of the matrix, and does not call `up`.
        """
        slots, folded = self.slots, self.working.folded
        if x.dtype != slots.dtype or torch.is_autocast_enabled(x.device.type) or is_hooked(slots.up):
            return None
        if slots.down._backward_hooks or slots.down._backward_pre_hooks:
            return None
        base = self.plain_base(x.dtype)
        if base is None or (folded is None and len(slots.past_down)):
            return None
        weight = base[0] if folded is None else folded
        return None if weight.requires_grad else (weight, base[1])

    def fused(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`W' x + bias + s B_t A_t x` in one function (`functional/fused_low_rank`), weight [d_out, d_in]: `W'`."""
        seen = self.dropped(x)
        with torch.no_grad():
            codes = self.slots.down(seen)  # called, because hooks may wait for its call (`feature_maps`)
        down = self.slots.parameters_by_group()["down"]
        return fused_update(x, seen, codes, down, self.slots.newest_up(), weight, bias, scale=self.scale)

    def grow(self) -> bool:
        """Freeze the newest slot and open another; a shared slot is opened once and stays."""
        if self.is_open and self.settings.slots == "shared":
            self.working.clear()
            self.train_newest()
            return False
        is_folded = self.is_open and self.working.push_to_past(self.parameters_by_group().values())
        if self.is_open:
            self.slots.push_to_past()
        self.slots.open()
        if not is_folded:
            self.fold_past()
        return True

    def fold_past(self) -> None:
        """Form the working weight of the earlier tasks anew."""
        self.working.fold_past(self, *self.slots.frozen_summands(), scale=self.scale)

    def write(self, new: Triplets) -> None:
        """Put triplets [r, ...] into the newest slot; where it counts from its start, they leave the frozen part."""
        super().write(new)
        if self.settings.from_start:
            self.fold_past()

    def fresh(self, seed: int) -> None:
        self.settings.start(self.slots, seed)

    @torch.no_grad()
    def freeze(self) -> None:
        self.stop_newest()
        parameters = self.parameters_by_group().values()
        self.working.fold_all(self, *self.slots.all_summands(), scale=self.scale, parameters=parameters)

    def close(self) -> None:
        self.slots.close()
        self.working.clear()

    @property
    def past_weight(self) -> Tensor | None:
        return self.working.folded

    @contextmanager
    def past_open(self) -> Iterator[dict[str, Tensor]]:
        with self.working.set_aside(), self.slots.past_as_leaves() as leaves:
            yield leaves

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        return self.slots.parameters_by_group()

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        return self.factor_maps(place, roles, input_of=None)

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """`W + s sum_{i<=t} B_i A_i`, [d_out, d_in].

        Raises:
            ModelError: The base is not a plain linear layer.
        """
        if (obstacle := self.why_not_plain()) is not None:
            raise ModelError(
                f"Updates cannot be added to a weight here: {obstacle}. Load the model without quantization to merge "
                "updates or to compare rows of weights."
            )
        base = self.base_weight().to(self.slots.dtype)
        if not self.is_open:
            return base
        past = folded_weight(base, *self.slots.frozen_summands(), scale=self.scale)
        newest = self.slots.newest(torch.eye(self.d_in, dtype=past.dtype, device=past.device))
        return past + self.scale * newest.T

    def public_tensors(self) -> dict[str, Tensor]:
        return self.slots.public_tensors()

    def forms(self, tasks: int) -> dict[str, Form]:
        return self.slots.forms(self.number_after(tasks))

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.slots.load_public(tensors)


@final
class PlacedLowRank(PlacedSlots[LowRankSite]):
    """All sites of a summed low-rank adapter in one host.

    Attributes:
        settings: The adapter's settings.
    """

    def __init__(self, model: nn.Module, settings: SlottedAdapter) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.
        """
        super().__init__(model, settings.linears(model), lambda base: LowRankSite(base, settings))
        self.settings = settings

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """While open, row b gets `sum_i w_bi s B_i A_i x` in place of all slots' sum."""
        if route.prompts is not None:
            raise ModelError("This adapter has no prompts that a route could choose from.")
        weights = route.weights
        if weights is not None:
            if self.settings.slots == "shared":
                raise ModelError("All tasks share one slot here, so that there are none to be weighted.")
            check_weights(weights, self.tasks)
        before = [(site, site.row_weights) for site in self.sites.values()]
        for site in self.sites.values():
            site.row_weights = weights
        try:
            yield
        finally:
            for site, weights_before in before:
                site.row_weights = weights_before

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
