"""A fixed number of LoRAs at every site, mixed token by token by a trained router (a dense mixture of experts)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.low_rank import lora_start
from nacre.adapters.route import Route
from nacre.adapters.slots import SlotStack
from nacre.adapters.slotted import MixingSite, PlacedSlots, SlottedAdapter
from nacre.errors import ModelError, RecipeError
from nacre.functional.experts import expert_gates, gated_codes
from nacre.models.fit import Form


@final
@dataclass(frozen=True)
class Experts(SlottedAdapter):
    """`h = W x + sum_e g_e s B_e A_e x`, `g = softmax(W_g x)`: one slot for all tasks, which holds E experts.

    Attributes:
        slots: 'shared', and nothing else.
        experts: `E`, the number of experts of `rank` dimensions each.
    """

    slots: Literal["shared", "per_task"] = "shared"
    experts: int = 4

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_slots()
        if self.experts < 1:
            raise RecipeError(f"experts: {self.experts} is not a positive number of experts.")
        if self.slots != "shared" or self.from_start:
            raise RecipeError("slots: all tasks share the experts, which go on from where they are; give slots=shared.")

    @property
    def slot_rank(self) -> int:
        return self.experts * self.rank

    @property
    def groups(self) -> tuple[str, ...]:
        return ("down", "up", "router")

    def place(self, model: nn.Module) -> PlacedExperts:
        return PlacedExperts(model, self)

    def site(self, base: nn.Module) -> ExpertsSite:
        return ExpertsSite(base, self)

    def start(self, slots: SlotStack, seed: int) -> None:
        """Each A as a dense layer begins, each B zero."""
        lora_start(slots, seed)


@final
class ExpertsSite(MixingSite):
    """A linear map with low-rank experts.

    Public tensors: `down.weight` [E r, d_in] and `up.weight` [d_out, E r], expert after expert, the empty stacks of
    earlier slots, and `router` [E, d_in], W_g.

    Attributes:
        settings: The adapter's settings.
        router: W_g, zeros at first: every expert has the same share.
    """

    def __init__(self, base: nn.Module, settings: Experts) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
        """
        super().__init__(base, settings)
        self.settings = settings
        self.router = nn.Parameter(self.new_tensor(settings.experts, self.d_in), requires_grad=False)

    @property
    def scale(self) -> float:
        return self.settings.scale

    def adapted(self, x: Tensor) -> Tensor:
        """`W x + sum_e g_e s B_e A_e x`; the router sees x without dropout."""
        h = self.untouched(x)
        codes = gated_codes(self.slots.down(self.dropped(x)), expert_gates(x, self.router))
        update: Tensor = self.scale * self.slots.up(codes)
        return h + update.to(h.dtype)

    def grow(self) -> bool:
        """Open the slot once; later tasks go on with it."""
        if not self.is_open:
            self.slots.open()
            self.router.requires_grad_(True)
            return True
        self.train_newest()
        return False

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        self.settings.start(self.slots, seed)
        self.router.zero_()

    def freeze(self) -> None:
        self.stop_newest()

    @torch.no_grad()
    def close(self) -> None:
        self.slots.close()
        self.router.zero_()

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        return {**self.slots.parameters_by_group(), "router": self.router}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        return self.factor_maps(place, roles, input_of=None)

    def public_tensors(self) -> dict[str, Tensor]:
        return {**self.slots.public_tensors(), "router": self.router.detach()}

    def forms(self, tasks: int) -> dict[str, Form]:
        return {**self.slots.forms(self.number_after(tasks)), "router": Form.of(self.router)}

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.slots.load_public(tensors)
        self.router.copy_(tensors["router"])


@final
class PlacedExperts(PlacedSlots[ExpertsSite]):
    """All sites with experts in one host."""

    def __init__(self, model: nn.Module, settings: Experts) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.
        """
        super().__init__(model, settings.linears(model), lambda base: ExpertsSite(base, settings))

    def use(self, route: Route) -> AbstractContextManager[None]:
        raise ModelError("Experts are weighted token by token by their own router: no routing can do so from outside.")

    def folding_summary(self) -> dict[str, Any]:
        """Empty: gates depend on the input, so that nothing can be folded."""
        return {}
