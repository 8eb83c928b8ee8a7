"""An update in the form of a singular value decomposition, one a task (LB-CL, section 3; AdaLoRA's parametrization)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from nacre.adapters.low_rank import LowRankSite, PlacedLowRank
from nacre.adapters.slots import SlotStack
from nacre.adapters.slotted import SlottedAdapter
from nacre.seeds import derive


@final
@dataclass(frozen=True)
class Svd(SlottedAdapter):
    """`h = W x + s (U_t diag(sigma_t) V_t + sum_{i<t} U_i diag(sigma_i) V_i) x` with s = 1, or alpha / rank.

    A slot's A is V and its B is U, and sigma lies between them. The r triplets (u, sigma, v) of a task are its
    directions: u a column of U, v a row of V. Nothing forces them to be orthonormal; `parts/orthonormality` pulls them
    there.
    """

    alpha: float | None = None

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_slots()

    @property
    def groups(self) -> tuple[str, ...]:
        return ("down", "up", "sigma")

    def place(self, model: nn.Module) -> PlacedLowRank:
        return PlacedLowRank(model, self)

    def site(self, base: nn.Module) -> LowRankSite:
        return LowRankSite(base, self)

    @torch.no_grad()
    def start(self, slots: SlotStack, seed: int) -> None:
        """U and V normal(0, 0.02), sigma 0: the update begins at zero, as AdaLoRA's does."""
        slots.down.weight.copy_(_normal(slots.down.weight.shape, derive(seed, "down")))
        slots.up.weight.copy_(_normal(slots.up.weight.shape, derive(seed, "up")))
        slots.sigma.zero_()


def _normal(shape: torch.Size, seed: int, spread: float = 0.02) -> Tensor:
    """Normal numbers, drawn on the CPU in float32, so that a seed gives the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, spread, generator=generator)
