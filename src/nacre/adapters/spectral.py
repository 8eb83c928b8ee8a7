"""OSF's adapter: a weight's small singular triplets are trained at full rank, the large ones stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter, FeatureMap
from nacre.adapters.route import Route
from nacre.adapters.site import Site
from nacre.adapters.sites import PlacedSites
from nacre.errors import ModelError, RecipeError
from nacre.functional.spectral_split import Spectrum, number_kept, split
from nacre.models.fit import Form
from nacre.models.roles import ROLES, find_linears
from nacre.per_task import PerTask, all_values, value_of


@final
@dataclass(frozen=True)
class Spectral(Adapter):
    """`h = (U_h S_h V_h + U_l S_l V_l) x`: U_l, S_l and V_l are trained.

    For each task the weight as the last one left it is split anew.

    Attributes:
        share: The share of a weight's singular values, from the largest on, that stay while a task is learned.
        roles: Roles of the linear maps that carry it (`models/roles`).
        modules: Endings of the maps' names, instead of roles.
        cross_attention: Whether the maps of a decoder's attention to the encoder carry it, too.
    """

    learning_rate: ClassVar[float] = 5e-5
    sum_gated: ClassVar[bool] = True
    trains_maps: ClassVar[bool] = False

    share: PerTask = 0.5
    roles: tuple[str, ...] = ROLES
    modules: tuple[str, ...] = ()
    cross_attention: bool = True

    def __post_init__(self) -> None:
        for share in all_values(self.share):
            if not 0 < share < 1:
                raise RecipeError(f"share: {share} is not in (0, 1); with 0 nothing stays, and with 1 nothing learns.")

    @property
    def grows(self) -> bool:
        return False

    @property
    def groups(self) -> tuple[str, ...]:
        return ("left", "sizes", "right")

    def place(self, model: nn.Module) -> PlacedSpectral:
        linears = find_linears(model, self.roles, self.modules, cross_attention=self.cross_attention)
        for name, linear in linears.items():
            site = SpectralSite(linear, self, lambda: 1)
            if (obstacle := site.why_not_plain()) is not None:
                raise ModelError(
                    f"{name} has no weight whose singular values could be taken: {obstacle}. Take the host whole and "
                    "without quantization."
                )
            if min(site.d_in, site.d_out) == 1:
                raise RecipeError(f"{name} has a single singular value: none is left to learn with. Leave the map out.")
        return PlacedSpectral(model, linears, self)


@final
class SpectralSite(Site):
    """A linear map whose weight is split by its singular values.

    Public tensors: `high` [d_out, d_in], U_h S_h V_h of the newest task's split; `left` [d_out, m], `sizes` [m] and
    `right` [m, d_in], U_l, S_l and V_l as they are.

    Attributes:
        settings: The adapter's settings.
        number: Gives the number of the newest task, from 1.
        protected: U_h [d_out, k] and V_h [k, d_in], while a task is learned.
        whole: Between tasks the one weight that all amounts to.
    """

    high: Tensor

    def __init__(self, base: nn.Module, settings: Spectral, number: Callable[[], int]) -> None:
        """Begin unsplit.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
            number: Gives the number of the newest task, from 1.
        """
        super().__init__(base)
        self.settings, self.number = settings, number
        self.left: nn.Parameter | None = None
        self.sizes: nn.Parameter | None = None
        self.right: nn.Parameter | None = None
        self.register_buffer("high", self.new_tensor(0))
        self.protected: tuple[Tensor, Tensor] | None = None
        self.whole: Tensor | None = None
        self._made_of: list[tuple[Tensor, int]] = []  # the parameters in ``whole``, as they were then

    @property
    def is_open(self) -> bool:
        return self.left is not None

    def adapted(self, x: Tensor) -> Tensor:
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        own, bias = x.to(self.high.dtype), None if bias is None else bias.to(self.high.dtype)
        if not self.training and (whole := self._current_whole()) is not None:
            return F.linear(own, whole, bias).to(x.dtype)
        low = self.low()
        update = F.linear(F.linear(own, low.right) * low.sizes, low.left)
        return (F.linear(own, self.high, bias) + update).to(x.dtype)

    def low(self) -> Spectrum:
        """U_l, S_l and V_l, which gradients reach."""
        assert self.left is not None
        assert self.sizes is not None
        assert self.right is not None
        return Spectrum(self.left, self.sizes, self.right)

    def grow(self) -> bool:
        """Split the weight as it is now. There is nothing for a start to fill."""
        high, low = split(self.effective_weight(), self._kept(self.number()))
        self._forget_whole()
        like = self.new_tensor(0)
        self.high = _like(like, high.matrix())
        self.protected = _like(like, high.left), _like(like, high.right)
        self._take(low.left, low.sizes, low.right)
        return False

    def _take(self, left: Tensor, sizes: Tensor, right: Tensor) -> None:
        self.left, self.sizes, self.right = (nn.Parameter(_like(self.high, each)) for each in (left, sizes, right))

    def _kept(self, task: int) -> int:
        return number_kept(value_of(self.settings.share, task, "share"), self.d_out, self.d_in)

    def fresh(self, seed: int) -> None:
        """Nothing is drawn."""

    @torch.no_grad()
    def freeze(self) -> None:
        self.stop_newest()
        self.protected = None
        self.whole = self.effective_weight()
        self._made_of = [(each, each._version) for each in self.parameters_by_group().values()]

    def close(self) -> None:
        self.left, self.sizes, self.right, self.protected = None, None, None, None
        self.high = self.new_tensor(0)
        self._forget_whole()

    def _forget_whole(self) -> None:
        self.whole, self._made_of = None, []

    def _current_whole(self) -> Tensor | None:
        """The one weight, unless a parameter has changed since."""
        return self.whole if all(each._version == version for each, version in self._made_of) else None

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        assert self.left is not None
        assert self.sizes is not None
        assert self.right is not None
        return {"left": self.left, "sizes": self.sizes, "right": self.right}

    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """None: an output of the map is no parameter of its own."""
        return []

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """`U_h S_h V_h + U_l S_l V_l`; the pristine weight before the first task."""
        if self.left is None:
            return self.base_weight().detach().to(self.high.dtype)
        return self.high + self.low().matrix()

    def public_tensors(self) -> dict[str, Tensor]:
        return {"high": self.high, **{name: each.detach() for name, each in self.parameters_by_group().items()}}

    def forms(self, tasks: int) -> dict[str, Form]:
        free = min(self.d_out, self.d_in) - self._kept(tasks)
        shapes = {"high": (self.d_out, self.d_in), "left": (self.d_out, free), "sizes": (free,)}
        shapes |= {"right": (free, self.d_in)}
        return {name: Form(shape, self.high.dtype) for name, shape in shapes.items()}

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        self.high = _like(self.high, tensors["high"])
        self._take(tensors["left"], tensors["sizes"], tensors["right"])


def _like(like: Tensor, tensor: Tensor) -> Tensor:
    """A copy in the type and on the device of another one, in one order in memory, whether computed or loaded."""
    return like.new_empty(tensor.shape).copy_(tensor)


@final
class PlacedSpectral(PlacedSites[SpectralSite]):
    """All sites with split weights in one host."""

    def __init__(self, model: nn.Module, linears: Mapping[str, nn.Module], settings: Spectral) -> None:
        """Put the sites into the host.

        Args:
            model: The host's body.
            linears: Its linear maps that get a site, by name.
            settings: The adapter's settings.
        """
        super().__init__(model, linears, lambda base: SpectralSite(base, settings, lambda: self.tasks))

    def use(self, route: Route) -> AbstractContextManager[None]:
        raise ModelError("All tasks share one weight here: there is nothing that a route could choose from.")

    def folding_summary(self) -> dict[str, Any]:
        """Empty: between tasks the whole weight is one anyway."""
        return {}
