"""AM-LoRA's adapter: a LoRA a task, mixed per token and site by a trained attentional selector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import kaiming_uniform
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.functional.gating import gate_values, gated_mixture, selector_keys
from nacre.seeds import derive


@dataclass(frozen=True)
class Gated(LowRank):
    """h = W x + sum_{i=1..t} g_i s B_i A_i x (AM-LoRA Eq. 5), g as in ``functional/gating``.

    selectors: ``all``: every task's selector is trained on the new task (AR in the paper's Fig. 5); ``new``: only the
        new task's (NR). zero_lora: whether a LoRA that is zero takes part in the softmax.
    dropout: one mask on the input of all LoRAs, old and new.
    """

    selectors: Literal["all", "new"] = "all"
    zero_lora: bool = True

    sum_gated: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("down", "up", "selector")

    def site(self, base: nn.Module) -> GatedSite:
        return GatedSite(base, self)


class GatedSite(LowRankSite):
    """A low-rank site with one more public tensor: ``selector`` [t, d_out], row i the selector w_i of task i."""

    settings: Gated
    frozen_selectors: Tensor

    def __init__(self, base: nn.Module, settings: Gated) -> None:
        super().__init__(base, settings)
        self.register_buffer("frozen_selectors", self.new_tensor(0, self.d_out), persistent=False)
        self.trained_selectors = nn.Parameter(self.new_tensor(0, self.d_out), requires_grad=False)

    @property
    def selector(self) -> Tensor:
        """[t, d_out]: frozen rows first."""
        return torch.cat([self.frozen_selectors, self.trained_selectors])

    def stacks(self) -> tuple[Tensor, Tensor]:
        """All tasks' down [t, r, d_in] and up [t, r, d_out] (transposed); gradients reach the newest only."""
        return (
            torch.cat([self.past_down, self.down.weight.unsqueeze(0)]),
            torch.cat([self.past_up, self.up.weight.T.unsqueeze(0)]),
        )

    def forward(self, x: Tensor) -> Tensor:  # [..., d_in] -> [..., d_out]
        if not self.is_open:
            return self.untouched(x)
        down, up = self.stacks()
        h = self.untouched(x)
        delta = gated_mixture(
            self.dropped(x), down, up, self.selector, scale=self.settings.scale, zero_lora=self.settings.zero_lora
        )
        return h + delta.to(h.dtype)

    @torch.no_grad()
    def gates(self, x: Tensor) -> Tensor:
        """The gate values on inputs x [..., d_in]: [..., t] (what the paper's Fig. 4 shows)."""
        down, up = self.stacks()
        codes = (x @ down.flatten(0, 1).T).view(*x.shape[:-1], *down.shape[:2])
        keys = selector_keys(up, self.selector, self.settings.scale)
        return gate_values(codes, keys, zero_lora=self.settings.zero_lora)

    def open(self) -> None:
        earlier = self.selector.detach()
        kept, trained = (earlier, earlier[:0]) if self.settings.selectors == "new" else (earlier[:0], earlier)
        self.frozen_selectors = kept.clone()
        self.trained_selectors = nn.Parameter(torch.cat([trained, self.new_tensor(1, self.d_out)]))
        super().open()

    def fold(self) -> None:
        """Gates depend on the input, so nothing can be folded."""

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        super().fresh(seed)
        # The start of a dense layer with one output and d_out inputs.
        self.trained_selectors[-1:].copy_(kaiming_uniform(torch.Size([1, self.d_out]), derive(seed, "selector")))

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        return {**super().parameters_by_group(), "selector": self.trained_selectors}

    def public_tensors(self) -> dict[str, Tensor]:
        return {**super().public_tensors(), "selector": self.selector.detach()}

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_public(tensors)
        selector = tensors["selector"].to(self.trained_selectors)
        frozen = len(selector) - 1 if self.settings.selectors == "new" else 0
        self.frozen_selectors = selector[:frozen].clone()
        self.trained_selectors = nn.Parameter(selector[frozen:].clone())
