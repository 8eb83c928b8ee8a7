"""LoRA, one for all tasks or one a task with the earlier ones frozen and summed (AM-LoRA Eqs. 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, FeatureMap, PlacedAdapter, kaiming_uniform
from nacre.adapters.folding import Folding, folded, is_lost
from nacre.adapters.site import Site, is_hooked, put_sites, take_away
from nacre.errors import CheckpointError, ModelError, RecipeError
from nacre.functional.fused_low_rank import fused_update
from nacre.functional.low_rank import folded_weight, summed_update
from nacre.models.owner import ParameterGroup
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

    folded: the working copy of the weight that holds the sum of the earlier tasks, in the base's type; never saved.
    folding: whether there is one, or why not; None where there is nothing to fold.
    whole: between tasks, the working copy that holds all tasks: what answers are read with. It is what ``folded`` will
    be as soon as the next slot opens.
    """

    down: nn.Linear
    up: nn.Linear
    past_down: Tensor
    past_up: Tensor
    folded: Tensor | None
    whole: Tensor | None

    def __init__(self, base: nn.Module, settings: LowRank) -> None:
        super().__init__(base)
        self.settings = settings
        self.is_open = False
        rank = settings.rank
        self.register_buffer("past_down", self.new_tensor(0, rank, self.d_in))
        self.register_buffer("past_up", self.new_tensor(0, rank, self.d_out))
        self.register_buffer("folded", None, persistent=False)
        self.register_buffer("whole", None, persistent=False)
        self.folding: Folding | None = None
        self.settled: tuple[Folding, list[tuple[Tensor, int]]] | None = None  # of ``whole``, and what it was made of
        self.carried: tuple[Tensor | None, Folding] | None = None  # from ``whole`` to ``folded``

    def forward(self, x: Tensor) -> Tensor:  # [..., d_in] -> [..., d_out]
        if not self.is_open:
            return self.untouched(x)
        if (whole := self.all_tasks(x)) is not None:
            return self.base_with(x, whole)
        if (frozen := self.fusible(x)) is not None:
            return self.newest_on(x, *frozen)
        h = self.past(x)
        return h + (self.settings.scale * self.newest(self.dropped(x))).to(h.dtype)

    def newest(self, x: Tensor) -> Tensor:
        """B_t A_t x, without the scale: x [..., d_in] -> [..., d_out]."""
        delta: Tensor = self.up(self.down(x))
        return delta

    def newest_up(self) -> Tensor:
        """B_t with what lies between A_t and B_t, if anything does: ``newest`` is newest_up A_t x. [d_out, r]."""
        return _parameter(self.up)

    def fusible(self, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The one frozen matrix [d_out, d_in] and the bias that the newest update is added to, if the hand-written
        backward pass fits: it knows one type, no gradient of the matrix, and does not call ``up``."""
        if x.dtype != self.past_down.dtype or torch.is_autocast_enabled(x.device.type) or is_hooked(self.up):
            return None
        if self.down._backward_hooks or self.down._backward_pre_hooks:
            return None
        base = self.plain_base(x.dtype)
        if base is None or (self.folded is None and len(self.past_down)):
            return None
        weight = base[0] if self.folded is None else self.folded
        return None if weight.requires_grad else (weight, base[1])

    def newest_on(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W' x + bias + s B_t A_t x in one function (``functional/fused_low_rank``), weight [d_out, d_in]: W'."""
        seen = self.dropped(x)
        with torch.no_grad():
            codes = self.down(seen)  # called, because it may be listened to (``feature_maps``)
        down = _parameter(self.down)
        return fused_update(x, seen, codes, down, self.newest_up(), weight, bias, scale=self.settings.scale)

    def past(self, x: Tensor) -> Tensor:
        """W x + s sum_{i<t} B_i A_i x, through the folded weight where there is one."""
        if self.folded is not None and not is_lost(self.folding, x):
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
        """Put the newest slot onto the frozen stacks. The working copy of all tasks becomes that of earlier ones."""
        if (folding := self._settled_folding()) is not None:
            self.carried = self.whole, folding
        self.past_down = torch.cat([self.past_down, self.down.weight.detach().unsqueeze(0)])
        self.past_up = torch.cat([self.past_up, self.up.weight.detach().T.unsqueeze(0)])

    def open(self) -> None:
        rank = self.settings.rank
        self.down = _linear(self.new_tensor(rank, self.d_in))
        self.up = _linear(self.new_tensor(self.d_out, rank))
        self.is_open = True

    @torch.no_grad()
    def fold(self) -> None:
        """Form the working weight of the earlier tasks, unless it has just been carried over."""
        carried, self.carried = self.carried, None
        self.whole, self.settled = None, None
        if self.settings.slots == "shared" or len(self.past_down) == 0:
            self.folded, self.folding = None, None
        else:
            self.folded, self.folding = carried or self._formed(*self.past_pairs())

    @torch.no_grad()
    def settle(self) -> None:
        """Form the working weight of all tasks, once the newest is learnt."""
        if not self.is_open:
            return
        newest = self.down.weight.unsqueeze(0), self.newest_up().T.unsqueeze(0)
        pairs = [torch.cat(each) for each in zip(self.past_pairs(), newest, strict=True)]
        self.whole, folding = self._formed(*pairs)
        self.settled = folding, [(parameter, parameter._version) for parameter in self.parameters_by_group().values()]
        self.folded, self.folding = None, folding if self.settings.slots == "per_task" else None

    def all_tasks(self, x: Tensor) -> Tensor | None:
        """The one matrix that holds all tasks, where the site only reads and nobody listens to its parts."""
        if self.whole is None or self.training or is_hooked(self.down) or is_hooked(self.up):
            return None
        if (folding := self._settled_folding()) is None:
            return None
        return None if is_lost(folding, x) else self.whole

    def _formed(self, down: Tensor, up: Tensor) -> tuple[Tensor | None, Folding]:
        if (obstacle := self.why_not_plain()) is not None:
            return None, Folding(None, obstacle)
        return folded(self.base_weight().detach(), down, up, scale=self.settings.scale)

    def _settled_folding(self) -> Folding | None:
        """How all tasks were folded, if they still are what they were then, and none of them is being trained."""
        if self.settled is None:
            return None
        folding, made_of = self.settled
        now = self.parameters_by_group().values()
        same = all(
            parameter is then and parameter._version == version and not parameter.requires_grad
            for parameter, (then, version) in zip(now, made_of, strict=True)
        )
        return folding if same else None

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
        """W + s sum_{i<=t} B_i A_i, [d_out, d_in], of a site whose update does not depend on the input.

        Raises ``ModelError`` if the base is no ordinary linear map.
        """
        if (obstacle := self.why_not_plain()) is not None:
            raise ModelError(
                f"Updates cannot be added to a weight here: {obstacle}. Load the model without quantization to merge "
                "updates or to compare rows of weights."
            )
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
        self.trained_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
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

    def folding(self) -> dict[str, Folding]:
        """By site, whether its earlier tasks are folded; of sites that have something to fold."""
        return {name: site.folding for name, site in self.sites.items() if site.folding is not None}

    def folding_summary(self) -> dict[str, Any]:
        found = self.folding().values()
        if not found:
            return {}
        ratios = [folding.ratio for folding in found if folding.ratio is not None and math.isfinite(folding.ratio)]
        return {
            "sites": len(found),
            "folded": sum(folding.obstacle is None for folding in found),
            "obstacles": sorted({folding.obstacle for folding in found if folding.obstacle is not None}),
            "ratios": [min(ratios), max(ratios)] if ratios else None,
        }

    def fresh(self, seed: int) -> None:
        for name, site in self.sites.items():
            site.fresh(derive(seed, name))

    @contextmanager
    def past_open(self) -> Iterator[dict[str, dict[str, Tensor]]]:
        """While open, the host computes through the earlier tasks' own tensors instead of folded weights, and these
        are leaves that gradients reach: site -> group -> stack. Afterwards everything is what it was, to the object.
        """
        before = {name: (site.folded, site.whole, site.past_by_group()) for name, site in self.sites.items()}
        try:
            leaves = {}
            for name, site in self.sites.items():
                site.folded, site.whole = None, None
                leaves[name] = {key: past.detach().requires_grad_() for key, past in site.past_by_group().items()}
                _set_past(site, leaves[name])
            yield leaves
        finally:
            for name, site in self.sites.items():
                site.folded, site.whole, past = before[name]
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
        self.freeze()

    def freeze(self) -> None:
        super().freeze()
        for site in self.sites.values():
            site.settle()

    def remove(self) -> None:
        take_away(self.model, self.sites)
        for parameter, trained in self.trained_before:  # a quantized weight cannot be trained, and was not
            parameter.requires_grad_(trained)


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
