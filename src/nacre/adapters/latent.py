"""Latent-LoRA's adapter: a small matrix for each task between frozen singular vectors of the site's own weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, FeatureMap
from nacre.adapters.route import Route
from nacre.adapters.routed import answered_by, slot_weights, weights_of_rows
from nacre.adapters.site import Site
from nacre.adapters.sites import PlacedSites
from nacre.errors import ModelError, RecipeError
from nacre.functional.latent import blended_codes, largest_triplets
from nacre.functional.segments import Segments
from nacre.models.fit import Form
from nacre.models.roles import find_linears


@final
@dataclass(frozen=True)
class Latent(Adapter):
    """`h = W x + s U diag(S) (sum_i w_i R_i) V^T x`, U, S and V the r largest singular triplets of W.

    Without a route every w_i is 1.

    Attributes:
        rank: r.
        alpha: The update is scaled by s = alpha / rank; None: by 1.
        roles: Roles of the linear maps that carry it (`models/roles`).
        modules: Endings of the maps' names, instead of roles.
        cross_attention: Whether the maps of a decoder's attention to the encoder carry it, too.
    """

    learning_rate: ClassVar[float] = 3e-4
    sum_gated: ClassVar[bool] = True
    trains_maps: ClassVar[bool] = False

    rank: int = 32
    alpha: float | None = 16.0
    roles: tuple[str, ...] = ("query", "value")
    modules: tuple[str, ...] = ()
    cross_attention: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise RecipeError(f"rank: {self.rank} is not a positive number of singular vectors.")
        if self.alpha is not None and self.alpha <= 0:
            raise RecipeError(f"alpha: {self.alpha} is not positive; the update is scaled by alpha / rank.")

    @property
    def weighable(self) -> bool:
        return True

    @property
    def grows(self) -> bool:
        return True

    @property
    def groups(self) -> tuple[str, ...]:
        return ("core",)

    @property
    def scale(self) -> float:
        """The scale `s` of every slot's update."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def place(self, model: nn.Module) -> PlacedLatent:
        linears = find_linears(model, self.roles, self.modules, cross_attention=self.cross_attention)
        for name, linear in linears.items():
            site = LatentSite(linear, self)
            if (obstacle := site.why_not_plain()) is not None:
                raise ModelError(
                    f"{name} has no weight whose singular vectors could be taken: {obstacle}. Take the host whole and "
                    "without quantization."
                )
            if self.rank > (most := min(site.d_in, site.d_out)):
                raise RecipeError(f"rank: {self.rank} singular vectors were asked for, and {name} has {most}.")
        return PlacedLatent(model, linears, self)


@final
class LatentSite(Site):
    """A linear map with a small matrix for each task between its singular vectors.

    Public tensors (t tasks so far): `left` [d_out, r], `sizes` [r] and `right` [r, d_in], which are U, S and V^T;
    `core` [r, r] of the newest task, R_t; `past_core` [t-1, r, r], frozen.

    Attributes:
        settings: The adapter's settings.
        rows: Weight of each slot for each row of the batch [B, t]; None: the sum of all slots.
    """

    left: Tensor
    sizes: Tensor
    right: Tensor
    past_core: Tensor

    def __init__(self, base: nn.Module, settings: Latent) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
        """
        super().__init__(base)
        self.settings = settings
        self.rows: Segments | Tensor | None = None
        self.core: nn.Parameter | None = None
        self._hold({"left": self.new_tensor(0), "sizes": self.new_tensor(0), "right": self.new_tensor(0)})
        self.register_buffer("past_core", self.new_tensor(0, settings.rank, settings.rank))

    def _hold(self, triplets: Mapping[str, Tensor]) -> None:
        like = self.new_tensor(0)
        for name, tensor in triplets.items():
            own = torch.empty(tensor.shape).to(like)  # in one order in memory, whether computed or loaded
            self.register_buffer(name, own.copy_(tensor))

    @property
    def is_open(self) -> bool:
        return self.core is not None

    def cores(self) -> Tensor:
        """R_i of all tasks, which gradients reach in the newest [t, r, r]."""
        assert self.core is not None
        return torch.cat([self.past_core, self.core.unsqueeze(0)])

    def adapted(self, x: Tensor) -> Tensor:
        h = self.untouched(x)
        codes = nn.functional.linear(x.to(self.right.dtype), self.right)
        if self.rows is None:
            latent = codes @ self.cores().sum(0).T
        else:
            assert isinstance(self.rows, Tensor)  # `use` gives weights
            latent = blended_codes(codes, self.cores(), weights_of_rows(self.rows, x))
        update = nn.functional.linear(latent * self.sizes, self.left)
        return h + (self.settings.scale * update).to(h.dtype)

    def grow(self) -> bool:
        """Freeze the newest slot and open another, of zeros; the first one takes the singular vectors."""
        if self.core is None:
            left, sizes, right = largest_triplets(self.base_weight(), self.settings.rank)
            self._hold({"left": left, "sizes": sizes, "right": right})
        else:
            self.past_core = self.cores().detach()
        self.core = nn.Parameter(self.new_tensor(self.settings.rank, self.settings.rank))
        return True

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        """Zeros: the update begins at zero, and has a gradient there."""
        assert self.core is not None
        self.core.zero_()

    def freeze(self) -> None:
        self.stop_newest()

    def close(self) -> None:
        self.core = None
        self.past_core = self.past_core[:0]

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        assert self.core is not None
        return {"core": self.core}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """None: a core is no linear map of its own, and what it writes are directions of the host's map."""
        return []

    def effective_weight(self) -> Tensor | None:
        """`W + s U diag(S) (sum_i R_i) V^T`; None where a route blends the slots."""
        if self.rows is not None:
            return None
        weight = self.base_weight().detach().to(self.right.dtype)
        if self.core is None:
            return weight
        latent = self.sizes[:, None] * self.cores().detach().sum(0)
        return torch.addmm(weight, self.left @ latent, self.right, alpha=self.settings.scale)

    def public_tensors(self) -> dict[str, Tensor]:
        assert self.core is not None
        frozen = {"left": self.left, "sizes": self.sizes, "right": self.right, "past_core": self.past_core}
        return {**frozen, "core": self.core.detach()}

    def forms(self, tasks: int) -> dict[str, Form]:
        rank = self.settings.rank
        shapes: dict[str, tuple[int, ...]] = {"left": (self.d_out, rank), "sizes": (rank,), "right": (rank, self.d_in)}
        shapes |= {"past_core": (tasks - 1, rank, rank), "core": (rank, rank)}
        return {name: Form(shape, self.past_core.dtype) for name, shape in shapes.items()}

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self._hold({name: tensors[name] for name in ("left", "sizes", "right")})
        self.past_core = tensors["past_core"].to(self.past_core, copy=True)
        self.core = nn.Parameter(tensors["core"].to(self.past_core, copy=True), requires_grad=False)


@final
class PlacedLatent(PlacedSites[LatentSite]):
    """All sites with small matrices between singular vectors in one host."""

    def __init__(self, model: nn.Module, linears: Mapping[str, nn.Module], settings: Latent) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            linears: Its linear maps that get a site, by name.
            settings: The adapter's settings.
        """
        super().__init__(model, linears, lambda base: LatentSite(base, settings))

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """While open, row b gets `s U diag(S) (sum_i w_bi R_i) V^T x` in place of all slots' sum."""
        with answered_by(self.sites.values(), slot_weights(route, self.tasks)):
            yield

    def folding_summary(self) -> dict[str, Any]:
        """Empty: nothing is folded. The sum of all cores is one small matrix."""
        return {}
