"""An update in the form of a singular value decomposition, one a task (LB-CL, section 3; AdaLoRA's parametrization)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.seeds import derive


@dataclass(frozen=True)
class Svd(LowRank):
    """h = W x + s (U_t diag(sigma_t) V_t + sum_{i<t} U_i diag(sigma_i) V_i) x with s = 1, or alpha / rank.

    The r triplets (u, sigma, v) of a task are its directions: u a column of U, v a row of V. Nothing forces them to
    be orthonormal; ``parts/orthonormality`` pulls them there.
    """

    alpha: float | None = None

    groups: ClassVar[tuple[str, ...]] = ("down", "up", "sigma")

    def site(self, base: nn.Module) -> SvdSite:
        return SvdSite(base, self)


class SvdSite(LowRankSite):
    """A low-rank site with A = V and B = U, and between them ``sigma`` [r], ``past_sigma`` [t-1, r]."""

    past_sigma: Tensor

    def __init__(self, base: nn.Module, settings: Svd) -> None:
        super().__init__(base, settings)
        self.register_buffer("past_sigma", self.new_tensor(0, settings.rank))

    def newest(self, x: Tensor) -> Tensor:
        """U_t diag(sigma_t) V_t x, without the scale: x [..., d_in] -> [..., d_out]."""
        delta: Tensor = self.up(self.sigma * self.down(x))
        return delta

    def newest_up(self) -> Tensor:
        """U_t diag(sigma_t)."""
        return super().newest_up() * self.sigma

    def past_pairs(self) -> tuple[Tensor, Tensor]:
        """V_i [t-1, r, d_in] and U_i diag(sigma_i) [t-1, r, d_out] (transposed)."""
        return self.past_down, self.past_sigma.unsqueeze(-1) * self.past_up

    def lay_down(self) -> None:
        super().lay_down()
        self.past_sigma = torch.cat([self.past_sigma, self.sigma.detach().unsqueeze(0)])

    def open(self) -> None:
        super().open()
        self.sigma = nn.Parameter(self.new_tensor(self.settings.rank))

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        """U and V normal(0, 0.02), sigma 0: the update begins at zero, as AdaLoRA's does."""
        self.down.weight.copy_(_normal(self.down.weight.shape, derive(seed, "down")))
        self.up.weight.copy_(_normal(self.up.weight.shape, derive(seed, "up")))
        self.sigma.zero_()

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        return {**super().parameters_by_group(), "sigma": self.sigma}

    def past_by_group(self) -> dict[str, Tensor]:
        return {**super().past_by_group(), "sigma": self.past_sigma}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """As in a LoRA, and sigma_i belongs to the output i of V."""
        down, up = super().feature_maps(place, roles)
        return [replace(down, parameters=(*down.parameters, (self.sigma, 0))), up]

    def public_tensors(self) -> dict[str, Tensor]:
        return {**super().public_tensors(), "sigma": self.sigma.detach(), "past_sigma": self.past_sigma}

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_public(tensors)
        self.past_sigma = tensors["past_sigma"].to(self.past_sigma)
        self.sigma.copy_(tensors["sigma"])


def _normal(shape: torch.Size, seed: int, spread: float = 0.02) -> Tensor:
    """Drawn on the CPU in float32, so that a seed gives the same numbers on every device and in every precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, spread, generator=generator)
