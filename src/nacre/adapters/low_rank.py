"""LoRA, one for all tasks or one a task with the earlier ones frozen and summed (AM-LoRA Eqs. 1 to 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, FeatureMap, ParameterGroup, PlacedAdapter, kaiming_uniform
from nacre.adapters.site import Site, put_sites, take_away
from nacre.errors import CheckpointError, RecipeError
from nacre.functional.low_rank import folded_weight, summed_update
from nacre.models.roles import find_linears, roles_of
from nacre.seeds import derive


@dataclass(frozen=True)
class LowRank(Adapter):
    """h = W x + s (B_t A_t + sum_{i<t} B_i A_i) x with s = alpha / rank, or 1 where alpha is None.

    slots: ``shared``: one LoRA for the whole sequence (no sum); ``per_task``: a new one each task, earlier ones
        frozen. dropout: on the input of the LoRA being trained; the folded past sees the input as it is.
    roles: which linear maps carry it (``models/roles``), cross_attention: whether those of a decoder's attention to
        the encoder do. modules: their names' endings instead.
    """

    rank: int = 8
    alpha: float | None = 32.0
    dropout: float = 0.1
    slots: Literal["shared", "per_task"] = "per_task"
    roles: tuple[str, ...] = ("query", "value")
    modules: tuple[str, ...] = ()
    cross_attention: bool = True

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = True
    groups: ClassVar[tuple[str, ...]] = ("down", "up")

    @property
    def grows(self) -> bool:  # type: ignore[override]
        return self.slots == "per_task"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise RecipeError(f"rank: {self.rank} is not a positive number of dimensions.")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout: {self.dropout} is not in [0, 1).")
        if self.alpha is not None and self.alpha <= 0:
            raise RecipeError(f"alpha: {self.alpha} is not positive; the update is scaled by alpha / rank.")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def place(self, model: nn.Module) -> PlacedLowRank:
        return PlacedLowRank(model, self)

    def site(self, base: nn.Module) -> LowRankSite:
        return LowRankSite(base, self)


class LowRankSite(Site):
    """Public tensors (t tasks so far): ``down.weight`` [r, d_in], ``up.weight`` [d_out, r] of the newest task;
    ``past_down`` [t-1, r, d_in], ``past_up`` [t-1, r, d_out], frozen. Before the first task it is its base.
    """

    down: nn.Linear
    up: nn.Linear
    past_down: Tensor
    past_up: Tensor
    folded: Tensor | None

    def __init__(self, base: nn.Module, settings: LowRank) -> None:
        super().__init__(base)
        self.settings = settings
        self.is_open = False
        rank = settings.rank
        self.register_buffer("past_down", self.new_tensor(0, rank, self.d_in))
        self.register_buffer("past_up", self.new_tensor(0, rank, self.d_out))
        self.register_buffer("folded", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [..., d_in] -> [..., d_out]
        if not self.is_open:
            return self.untouched(x)
        h = self.past(x)
        return h + (self.settings.scale * self.newest(self.dropped(x))).to(h.dtype)

    def newest(self, x: Tensor) -> Tensor:
        """B_t A_t x, without the scale: x [..., d_in] -> [..., d_out]."""
        delta: Tensor = self.up(self.down(x))
        return delta

    def past(self, x: Tensor) -> Tensor:
        """W x + s sum_{i<t} B_i A_i x, through the folded weight where there is one."""
        if self.folded is not None:
            return self.base_with(x, self.folded)
        if len(self.past_down) == 0:
            return self.untouched(x)
        h = self.untouched(x)
        delta = summed_update(self.own_type(x), *self.past_pairs(), scale=self.settings.scale)
        return h + delta.to(h.dtype)

    def past_pairs(self) -> tuple[Tensor, Tensor]:
        """The earlier tasks' A_i [t-1, r, d_in] and B_i [t-1, r, d_out] (transposed), as they are summed."""
        return self.past_down, self.past_up

    def own_type(self, x: Tensor) -> Tensor:
        """A half-precision host hands over half-precision activations; adapters compute in their own type."""
        return x.to(self.past_down.dtype)

    def dropped(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.own_type(x), self.settings.dropout, self.training)

    def grow(self) -> bool:
        """Freeze the newest slot and open another; a shared slot is opened once and stays."""
        if self.is_open and self.settings.slots == "shared":
            for parameter in self.parameters_by_group().values():
                parameter.requires_grad_(True)
            return False
        if self.is_open:
            self.lay_down()
        self.open()
        return True

    def lay_down(self) -> None:
        """Put the newest slot onto the frozen stacks."""
        self.past_down = torch.cat([self.past_down, self.down.weight.detach().unsqueeze(0)])
        self.past_up = torch.cat([self.past_up, self.up.weight.detach().T.unsqueeze(0)])

    def open(self) -> None:
        rank = self.settings.rank
        self.down = _linear(self.new_tensor(rank, self.d_in))
        self.up = _linear(self.new_tensor(self.d_out, rank))
        self.is_open = True

    def fold(self) -> None:
        """Form the working weight from the pristine one. Half-precision hosts keep their past in rank space, where
        small updates do not vanish in the rounding of a large weight."""
        can_fold = self.base_weight().dtype in (torch.float32, torch.float64)
        if self.settings.slots == "per_task" and can_fold and len(self.past_down):
            self.folded = folded_weight(self.base_weight().detach(), *self.past_pairs(), scale=self.settings.scale)

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        self.down.weight.copy_(kaiming_uniform(self.down.weight.shape, derive(seed, "down")))
        self.up.weight.zero_()

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        return {"down": _parameter(self.down), "up": _parameter(self.up)}

    def past_by_group(self) -> dict[str, Tensor]:
        """The frozen stacks under the names of the groups they were trained in; buffer ``past_NAME`` holds each."""
        return {"down": self.past_down, "up": self.past_up}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """A by its own output [r]; B by the whole site's output, W x and earlier tasks included (MIGU, Eqs. 7 to 9)."""
        down, up = _parameter(self.down), _parameter(self.up)
        # A gated mixture multiplies with all tasks' A at once, so that ``down`` is not called.
        read = None if self.settings.sum_gated else self
        return [
            FeatureMap(f"{place}.down", place, roles, self.down, ((down, 0),), input_of=read),
            FeatureMap(place, place, roles, self, ((up, 0),)),
        ]

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """W + s sum_{i<=t} B_i A_i, [d_out, d_in], of a site whose update does not depend on the input."""
        base = self.base_weight().to(self.past_down.dtype)
        past = folded_weight(base, *self.past_pairs(), scale=self.settings.scale)
        newest = self.newest(torch.eye(self.d_in, dtype=past.dtype, device=past.device))
        return past + self.settings.scale * newest.T

    def public_tensors(self) -> dict[str, Tensor]:
        return {
            "down.weight": self.down.weight.detach(),
            "up.weight": self.up.weight.detach(),
            "past_down": self.past_down,
            "past_up": self.past_up,
        }

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.open()
        device, dtype = self.past_down.device, self.past_down.dtype
        self.past_down = tensors["past_down"].to(device, dtype)
        self.past_up = tensors["past_up"].to(device, dtype)
        self.down.weight.copy_(tensors["down.weight"])
        self.up.weight.copy_(tensors["up.weight"])


class PlacedLowRank(PlacedAdapter):
    """All sites of a low-rank adapter in one host."""

    def __init__(self, model: nn.Module, settings: LowRank) -> None:
        linears = find_linears(model, settings.roles, settings.modules, cross_attention=settings.cross_attention)
        super().__init__(model)
        self.sites: dict[str, LowRankSite] = put_sites(model, linears, settings.site)  # type: ignore[assignment]

    def grow(self) -> bool:
        self.tasks += 1
        opened = [site.grow() for site in self.sites.values()]
        self.refresh()
        return all(opened)

    def refresh(self) -> None:
        for site in self.sites.values():
            site.fold()

    def fresh(self, seed: int) -> None:
        for name, site in self.sites.items():
            site.fresh(derive(seed, name))

    @contextmanager
    def past_open(self) -> Iterator[dict[str, dict[str, Tensor]]]:
        """While open, the host computes through the earlier tasks' own tensors instead of folded weights, and these
        are leaves that gradients reach: site -> group -> stack. Afterwards everything is what it was, to the object.
        """
        before = {name: (site.folded, site.past_by_group()) for name, site in self.sites.items()}
        try:
            leaves = {}
            for name, site in self.sites.items():
                site.folded = None
                leaves[name] = {key: past.detach().requires_grad_() for key, past in site.past_by_group().items()}
                _set_past(site, leaves[name])
            yield leaves
        finally:
            for name, site in self.sites.items():
                site.folded, past = before[name]
                _set_past(site, past)

    def parameter_groups(self) -> list[ParameterGroup]:
        if self.tasks == 0:
            return []
        by_site = [site.parameters_by_group() for site in self.sites.values()]
        return [ParameterGroup(group, tuple(site[group] for site in by_site)) for group in by_site[0]]

    def feature_maps(self) -> list[FeatureMap]:
        if self.tasks == 0:
            return []
        by_site = [site.feature_maps(name, roles_of(self.model, name)) for name, site in self.sites.items()]
        return [found for maps in by_site for found in maps]

    def tensors(self) -> dict[str, Tensor]:
        if self.tasks == 0:
            return {}
        return {
            f"{name}.{kind}": tensor
            for name, site in self.sites.items()
            for kind, tensor in site.public_tensors().items()
        }

    def load(self, tensors: Mapping[str, Tensor], tasks: int) -> None:
        self.tasks = tasks
        if tasks == 0:
            return
        try:
            for name, site in self.sites.items():
                prefix = f"{name}."
                site.load_public(
                    {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                )
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"The saved adapter does not fit this model and method: {error}.") from None
        self.refresh()
        self.freeze()

    def remove(self) -> None:
        take_away(self.model, self.sites)
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)


def _linear(weight: Tensor) -> nn.Linear:
    """A bias-free linear map around a given weight, without drawing random numbers for one that is thrown away."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    return linear


def _parameter(linear: nn.Linear) -> nn.Parameter:
    assert isinstance(linear.weight, nn.Parameter)
    return linear.weight


def _set_past(site: LowRankSite, past: Mapping[str, Tensor]) -> None:
    for group, stack in past.items():
        setattr(site, f"past_{group}", stack)
