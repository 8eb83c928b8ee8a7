"""AM-LoRA's adapter: a LoRA a task, mixed per token and site by a trained attentional selector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap, kaiming_uniform
from nacre.adapters.low_rank import lora_start
from nacre.adapters.route import Route
from nacre.adapters.routed import check_weights, weights_of_rows
from nacre.adapters.slots import SlotStack
from nacre.adapters.slotted import MixingSite, PlacedSlots, SlottedAdapter
from nacre.errors import ModelError, RecipeError
from nacre.functional.fused_gating import Mixture, fused_mixture
from nacre.functional.gates_first import chosen_tasks, fused_gates_first
from nacre.functional.gating import (
    Activation,
    gate_values,
    low_rank_codes,
    mixed_update,
    selector_keys,
    selector_scores,
)
from nacre.functional.grouped import computed_in
from nacre.models.fit import Form
from nacre.seeds import derive


@final
@dataclass(frozen=True)
class Gated(SlottedAdapter):
    """`h = W x + sum_{i=1..t} g_i s B_i A_i x` (AM-LoRA Eq. 5), g as in `functional/gating`.

    Attributes:
        dropout_on: The LoRAs whose input has dropout, by one mask: `all`, or `new`, the newest only.
        selectors: `all`: every task's selector is trained on the new task (AR in the paper's Fig. 5); `new`: only the
            new task's (NR).
        selector_start: Start of the new task's `w_t`: `kaiming`, uniform in `+-1/sqrt(d_out)`; `zeros`; `mean_of_old`,
            the mean of the earlier ones as they are then (the first task's: kaiming).
        selector_rate: The learning rate of selectors and of a learned `z_0`, in multiples of the others'.
        selector_input: The factor beside `w_i`: `scaled`, `y_i = s B_i A_i x`; `unscaled`, `B_i A_i x`.
        activation: `phi`, on the selector's output.
        zero_lora: True: a LoRA that is zero takes part in the softmax with the score `z_0 = 0`; False: none does;
            `learned`: `z_0` is one trained number a site, 0 at first.
        keep_gates: `k`, the number of tasks in a sum, those with the largest gates on the batch
            (`functional/gates_first`); None: all.
    """

    dropout_on: Literal["all", "new"] = "all"
    selectors: Literal["all", "new"] = "all"
    selector_start: Literal["kaiming", "zeros", "mean_of_old"] = "kaiming"
    selector_rate: float = 1.0
    selector_input: Literal["scaled", "unscaled"] = "scaled"
    activation: Activation = "none"
    zero_lora: bool | Literal["learned"] = True
    keep_gates: int | None = None

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_slots()
        if self.from_start:
            raise RecipeError(
                "from_start: updates are mixed by gates here, so that there is no sum that a start is taken out of."
            )
        if self.selector_rate <= 0:
            raise RecipeError(
                f"selector_rate: {self.selector_rate} is not positive; it multiplies the selectors' learning rate."
            )
        if self.keep_gates is not None and self.keep_gates < 1:
            raise RecipeError(
                f"keep_gates: {self.keep_gates} is not a positive number of tasks; null keeps all of them."
            )

    @property
    def groups(self) -> tuple[str, ...]:
        return ("down", "up", "selector", *(("zero_score",) if self.zero_lora == "learned" else ()))

    def place(self, model: nn.Module) -> PlacedGated:
        return PlacedGated(model, self)

    def site(self, base: nn.Module) -> GatedSite:
        return GatedSite(base, self)

    def start(self, slots: SlotStack, seed: int) -> None:
        """A as a dense layer begins, B zero."""
        lora_start(slots, seed)


@final
class GatedSite(MixingSite):
    """A linear map with the tasks' low-rank updates, mixed token by token.

    Public tensors: those of its slots; `selector` [t, d_out], row i the selector `w_i` of task i; and, where it is
    learned, `zero_score` [1], `z_0`.

    Attributes:
        settings: The adapter's settings.
        offset: Subtracted from the newest task's score; 0 except where `parts/start_offset` sets it.
        row_offsets: Added to z_0 and to the tasks' scores of each row of the batch [B, 1 + t]; None: nothing is.
    """

    frozen_selectors: Tensor

    def __init__(self, base: nn.Module, settings: Gated) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
        """
        super().__init__(base, settings)
        self.settings = settings
        self.register_buffer("frozen_selectors", self.new_tensor(0, self.d_out), persistent=False)
        self.trained_selectors = nn.Parameter(self.new_tensor(0, self.d_out), requires_grad=False)
        if settings.zero_lora == "learned":
            self.zero_score = nn.Parameter(self.new_tensor(1), requires_grad=False)
        self.offset = 0.0
        self.row_offsets: Tensor | None = None
        self._all: _AllTasks | None = None

    @property
    def selector(self) -> Tensor:
        """All tasks' selectors, [t, d_out], frozen rows first."""
        if len(self.frozen_selectors) == 0:
            return self.trained_selectors
        return torch.cat([self.frozen_selectors, self.trained_selectors])

    @property
    def scale(self) -> float:
        return self.settings.scale

    def adapted(self, x: Tensor) -> Tensor:
        """`W x + sum_i g_i s B_i A_i x`."""
        if self.can_fuse(x):
            return self.fused(x)
        h = self.untouched(x)
        return h + self.delta(x).to(h.dtype)

    def delta(self, x: Tensor) -> Tensor:
        """The mixture's update by autograd: x [..., d_in] -> [..., d_out].

        It computes the same as `fused`, but all tasks' codes even where few are taken.
        """
        down, up = self.slots.all_pairs()
        codes = self.codes(self.own_type(x), down)
        scores = self.scores_of(codes, up)
        if self.row_offsets is not None:
            gates = self.gates_of_rows(scores, self.row_offsets, x)
            return mixed_update(codes, gates, up, scale=self.settings.scale)
        if not self.chooses:
            return mixed_update(codes, self.gates_of(scores), up, scale=self.settings.scale)
        chosen = self.chosen(self.gates_of(scores.detach()))
        taken = torch.zeros_like(scores, dtype=torch.bool).index_fill_(-1, chosen, True)
        gates = self.gates_of(torch.where(taken, scores, scores.detach()))
        codes, gates = codes.index_select(-2, chosen), gates.index_select(-1, chosen)
        return mixed_update(codes, gates, up.index_select(0, chosen), scale=self.settings.scale)

    @property
    def chooses(self) -> bool:
        """Whether there are more tasks than may be kept."""
        keep = self.settings.keep_gates
        return keep is not None and keep <= len(self.slots.past_down)

    def chosen(self, gates: Tensor) -> Tensor:
        """Indices [k] of the tasks that are taken into the sum, given all gates of a batch [..., t]."""
        assert self.settings.keep_gates is not None
        return chosen_tasks(gates.flatten(0, -2).sum(0), self.settings.keep_gates, with_newest=self.training)

    def can_fuse(self, x: Tensor) -> bool:
        """Whether the hand-written backward pass applies to an input x.

        It supports one input for all LoRAs and gradients of the newest task's tensors only. Where tasks are chosen, the
        newest is not always among them in evaluation.
        """
        one_input = self.settings.dropout_on == "all" or not self.drops or len(self.slots.past_down) == 0
        past_frozen = not any(stack.requires_grad for stack in self.slots.past_pairs())
        newest_taken = self.training or not self.chooses or not torch.is_grad_enabled()
        return one_input and past_frozen and newest_taken and self.row_offsets is None

    def fused(self, x: Tensor) -> Tensor:
        """The forward pass through `functional/fused_gating` or `gates_first`: x [..., d_in] -> [..., d_out].

        The base's product is part of it where the base is plain.
        """
        settings = self.settings
        mixture = Mixture(
            scale=settings.scale,
            key_scale=settings.scale if settings.selector_input == "scaled" else 1.0,
            zero_lora=bool(settings.zero_lora),
            activation=settings.activation,
            offset=self.offset,
        )
        kind = computed_in(self.slots.down.weight)
        seen = self.dropped(x).to(kind) if self.drops else x.to(kind)
        base = self._base_in(kind, x)
        undropped = x.to(kind) if base is not None and self.drops else None
        zero_score = self.zero_score if settings.zero_lora == "learned" else None
        trained = (self.slots.down.weight, self.slots.up.weight, self.selector, zero_score)
        if self.chooses:
            assert settings.keep_gates is not None
            fused = fused_gates_first(
                seen, *trained, *self._stacked(kind), mixture, base, undropped,
                keep=settings.keep_gates, with_newest=self.training
            )  # fmt: skip
        else:
            fused = fused_mixture(seen, *trained, *self._stacked(kind), mixture, base, undropped)
        if base is not None:
            return fused
        h = self.untouched(x)
        return h + fused.to(h.dtype)

    @property
    def drops(self) -> bool:
        """Whether inputs are dropped now."""
        return self.training and self.settings.dropout > 0

    def _base_in(self, kind: torch.dtype, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The base's weight and bias in the type that the adapter computes in, where the base computes in it, too."""
        if computed_in(x) != kind:
            return None
        base = self.plain_base(x.dtype if x.dtype == kind else self.weight.dtype)
        if base is None:
            return None
        weight, bias = base
        return weight.to(kind), None if bias is None else bias.to(kind)

    def _stacked(self, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Working copies of all tasks' A_i [t r, d_in] and B_i^T [t r, d_out] in this type.

        They are made when the past changes; every forward pass fills in the newest rows.
        """
        past = self.slots.past_pairs()
        if self._all is None or not self._all.is_of(*past, kind):
            self._all = _AllTasks.of(*past, kind)
        return self._all.down, self._all.up

    def codes(self, x: Tensor, down: Tensor) -> Tensor:
        """A_i x, with dropout as `dropout_on` says: x [..., d_in], down [t, r, d_in] -> [..., t, r]."""
        if self.settings.dropout_on == "all" or not self.drops:
            return low_rank_codes(self.dropped(x), down)
        earlier, newest = low_rank_codes(x, down[:-1]), low_rank_codes(self.dropped(x), down[-1:])
        return torch.cat([earlier, newest], dim=-2)

    def scores_of(self, codes: Tensor, up: Tensor) -> Tensor:
        """The scores z_1 .. z_t: codes [..., t, r], up [t, r, d_out] -> [..., t]."""
        settings = self.settings
        keys = selector_keys(up, self.selector, settings.scale if settings.selector_input == "scaled" else 1.0)
        return selector_scores(codes, keys, activation=settings.activation, offset=self.offset)

    def gates_of(self, scores: Tensor) -> Tensor:
        """The gates g_1 .. g_t: scores [..., t] -> [..., t]."""
        if self.settings.zero_lora == "learned":
            return gate_values(scores, self.zero_score)
        return gate_values(scores, scores.new_zeros(1) if self.settings.zero_lora else None)

    def gates_of_rows(self, scores: Tensor, offsets: Tensor, x: Tensor) -> Tensor:
        """The gates g_1 .. g_t where each row's scores are offset: scores [..., t], offsets [B, 1 + t] -> [..., t]."""
        offsets = weights_of_rows(offsets, x).to(scores)
        offsets = offsets.view(len(offsets), *[1] * (scores.ndim - 2), -1)
        zero = self.zero_score if self.settings.zero_lora == "learned" else scores.new_zeros(1)
        every = torch.cat([zero.to(scores).expand(*scores.shape[:-1], 1), scores], dim=-1) + offsets
        if not self.settings.zero_lora:
            return every[..., 1:].softmax(-1)
        return every.softmax(-1)[..., 1:]

    @torch.no_grad()
    def gates(self, x: Tensor) -> Tensor:
        """The gates as in the paper's Fig. 4: x [..., d_in] -> [..., t].

        They include those of tasks that are not taken into the sum.
        """
        down, up = self.slots.all_pairs()
        return self.gates_of(self.scores_of(low_rank_codes(self.own_type(x), down), up))

    @torch.no_grad()
    def left_out(self, x: Tensor) -> Tensor:
        """The sum of the gates that `keep_gates` leaves out on this batch: x [..., d_in] -> [...]."""
        gates = self.gates(x)
        if not self.chooses:
            return gates.new_zeros(gates.shape[:-1])
        return gates.index_fill(-1, self.chosen(gates), 0).sum(-1)

    def grow(self) -> bool:
        """Freeze the newest slot and open another; a shared slot is opened once and stays."""
        if self.is_open and self.settings.slots == "shared":
            self.train_newest()
            return False
        if self.is_open:
            self.slots.push_to_past()
        self.slots.open()
        earlier = self.selector.detach()
        kept, trained = (earlier, earlier[:0]) if self.settings.selectors == "new" else (earlier[:0], earlier)
        self.frozen_selectors = kept.clone()
        self.trained_selectors = nn.Parameter(torch.cat([trained, self.new_tensor(1, self.d_out)]))
        if self.settings.zero_lora == "learned":
            self.zero_score.requires_grad_(True)
        return True

    def freeze(self) -> None:
        self.stop_newest()

    @torch.no_grad()
    def close(self) -> None:
        self.slots.close()
        self.frozen_selectors = self.new_tensor(0, self.d_out)
        self.trained_selectors = nn.Parameter(self.new_tensor(0, self.d_out), requires_grad=False)
        if self.settings.zero_lora == "learned":
            self.zero_score.zero_()

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        self.settings.start(self.slots, seed)
        earlier, newest = self.selector[:-1], self.trained_selectors[-1:]
        if self.settings.selector_start == "zeros":
            newest.zero_()
        elif self.settings.selector_start == "mean_of_old" and len(earlier):
            newest.copy_(earlier.mean(dim=0))
        else:  # as a dense layer with one output and d_out inputs begins
            newest.copy_(kaiming_uniform(torch.Size([1, self.d_out]), derive(seed, "selector")))

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        zero = {"zero_score": self.zero_score} if self.settings.zero_lora == "learned" else {}
        return {**self.slots.parameters_by_group(), "selector": self.trained_selectors, **zero}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        return self.factor_maps(place, roles, input_of=self)  # all tasks' A at once: ``down`` is not called

    def public_tensors(self) -> dict[str, Tensor]:
        zero = {"zero_score": self.zero_score.detach()} if self.settings.zero_lora == "learned" else {}
        return {**self.slots.public_tensors(), "selector": self.selector.detach(), **zero}

    def forms(self, tasks: int) -> dict[str, Form]:
        slots = self.number_after(tasks)
        zero = {"zero_score": Form.of(self.zero_score)} if self.settings.zero_lora == "learned" else {}
        return {**self.slots.forms(slots), "selector": Form((slots, self.d_out), self.slots.dtype), **zero}

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.slots.load_public(tensors)
        selector = tensors["selector"].to(self.trained_selectors)
        frozen = len(selector) - 1 if self.settings.selectors == "new" else 0
        self.frozen_selectors = selector[:frozen].clone()
        self.trained_selectors = nn.Parameter(selector[frozen:].clone())
        if self.settings.zero_lora == "learned":
            self.zero_score.copy_(tensors["zero_score"])


@dataclass(frozen=True)
class _AllTasks:
    """Working copies of all tasks' factors, and what they were made from.

    Attributes:
        down: All A_i, [t r, d_in], in the type of products.
        up: All B_i^T, [t r, d_out], likewise.
        past: The earlier tasks' stacks that they were made from.
        versions: The stacks' versions then.
    """

    down: Tensor
    up: Tensor
    past: tuple[Tensor, Tensor]
    versions: tuple[int, int]

    @classmethod
    def of(cls, past_down: Tensor, past_up: Tensor, kind: torch.dtype) -> _AllTasks:
        with torch.inference_mode(False), torch.no_grad():  # training goes on with what an evaluation has made
            down, up = (
                torch.cat([past.flatten(0, 1).to(kind), past.new_zeros(past.shape[1:], dtype=kind)])
                for past in (past_down, past_up)
            )
        return cls(down, up, (past_down, past_up), (past_down._version, past_up._version))

    def is_of(self, past_down: Tensor, past_up: Tensor, kind: torch.dtype) -> bool:
        same = self.past[0] is past_down and self.past[1] is past_up and self.down.dtype == kind
        return same and self.versions == (past_down._version, past_up._version)


@final
class PlacedGated(PlacedSlots[GatedSite]):
    """All gated sites in one host.

    Attributes:
        settings: The adapter's settings.
    """

    def __init__(self, model: nn.Module, settings: Gated) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.
        """
        rates = dict.fromkeys(("selector", "zero_score"), settings.selector_rate)
        super().__init__(model, settings.linears(model), lambda base: GatedSite(base, settings), rates)
        self.settings = settings

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """While open, each row's offsets are added to the gates' scores."""
        if route.names_slots or route.prompts is not None:
            raise ModelError(
                "A gated adapter weights its slots itself, token by token: a routing can offset their scores, no more."
            )
        if route.score_offsets is not None:
            check_weights(route.score_offsets, self.tasks + 1)
        before = [site.row_offsets for site in self.sites.values()]
        for site in self.sites.values():
            site.row_offsets = route.score_offsets
        try:
            yield
        finally:
            for site, offsets in zip(self.sites.values(), before, strict=True):
                site.row_offsets = offsets

    def folding_summary(self) -> dict[str, Any]:
        """Empty: gates depend on the input, so that nothing can be folded."""
        return {}

    def set_offset(self, offset: float) -> None:
        """Subtract this from the newest task's score at every site."""
        for site in self.sites.values():
            site.offset = offset
