"""A site: one linear map of the host that carries an adapter, and the reversible act of putting it there."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.slots_on_disk import ALL_AT_ONCE, SlotsOfSite
from nacre.errors import ModelError
from nacre.models.fit import Form
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.sharding import is_part


class Site(nn.Module, ABC):
    """The untouched linear map, `base`, and beside it an adapter's update.

    GPT-2's `Conv1D` stores its weight as [d_in, d_out]; `base_weight` hides that.

    Attributes:
        base: The host's own linear map.
        d_in: Size of its input by its own account: a quantized map keeps its weight in another shape and type.
        d_out: Size of its output.
        is_bypassed: Whether the site computes what the bare host does.
    """

    def __init__(self, base: nn.Module) -> None:
        """Begin without a slot.

        Args:
            base: The host's own linear map.
        """
        super().__init__()
        self.base = base
        self.is_bypassed = False
        sizes = (base.nx, base.nf) if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        self.d_in, self.d_out = (int(size) for size in sizes)  # type: ignore[arg-type]

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether a slot has been opened; before that, the site computes as its base."""

    @abstractmethod
    def adapted(self, x: Tensor) -> Tensor:
        """The site's output once a slot is open: x [..., d_in] -> [..., d_out]."""

    @abstractmethod
    def grow(self) -> bool:
        """Freeze the newest slot and open another. False if the old one goes on being trained."""

    @abstractmethod
    def fresh(self, seed: int) -> None:
        """Fill the newest slot with its usual random values, each tensor by a seed derived from this one."""

    @abstractmethod
    def freeze(self) -> None:
        """End the newest slot's training: nothing is trainable, and the site is ready to answer."""

    @abstractmethod
    def close(self) -> None:
        """Forget every slot."""

    @abstractmethod
    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained for the newest task, by the names of their groups."""

    @final
    def train_newest(self) -> None:
        """Train the newest slot's tensors, as they are."""
        for parameter in self.parameters_by_group().values():
            parameter.requires_grad_(True)

    @final
    def stop_newest(self) -> None:
        """Make the newest slot's tensors constants without gradients."""
        stop_training([ParameterGroup(group, (each,)) for group, each in self.parameters_by_group().items()])

    @abstractmethod
    def feature_maps(self, place: str, roles: tuple[str, ...]) -> list[FeatureMap]:
        """The linear maps that are trained for the newest task.

        Args:
            place: The site's name in the host.
            roles: Roles of its linear map.
        """

    @abstractmethod
    def public_tensors(self) -> dict[str, Tensor]:
        """The saved tensors of an open site, by name, detached."""

    @abstractmethod
    def forms(self, tasks: int) -> dict[str, Form]:
        """What `public_tensors` gives after so many tasks."""

    @abstractmethod
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `public_tensors` gave; every tensor has its form."""

    @abstractmethod
    def effective_weight(self) -> Tensor | None:
        """The one weight [d_out, d_in] that base and updates amount to; None if the update depends on the input.

        Raises:
            ModelError: The base is not a plain linear layer, so that nothing can be added to its weight.
        """

    def leave_on_disk(self, earlier: SlotsOfSite) -> None:
        """Take earlier tasks' slots from files when they answer; their stacks were loaded empty.

        Raises:
            ModelError: This kind of site needs all of them.
        """
        raise ModelError(ALL_AT_ONCE)

    def settle(self) -> None:
        """Keep only what answers under the route in force, which is one task's; a site without routes has nothing else.

        It is called on a copy that is trained further: what is kept are parameters.
        """
        return

    def forward(self, x: Tensor) -> Tensor:
        """The site's output: x [..., d_in] -> [..., d_out]."""
        return self.adapted(x) if self.is_open and not self.is_bypassed else self.untouched(x)

    @property
    def weight(self) -> Tensor:
        """The base's own weight: some hosts (T5's feed-forward) read it to choose a precision."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    def base_weight(self) -> Tensor:
        """The pristine weight as [d_out, d_in], a view; of a plain base only (`why_not_plain`)."""
        return self.weight.T if isinstance(self.base, Conv1D) else self.weight

    def why_not_plain(self) -> str | None:
        """Why the base is not a plain linear layer; None if it is.

        A plain layer computes `x W^T + bias` with numbers that can be read. Only such a base can be replaced by another
        computation.
        """
        kind = type(self.base)
        if kind not in (nn.Linear, Conv1D) or "forward" in vars(self.base):
            return f"the linear map ({kind.__name__}) computes in a way of its own, as quantized ones do"
        if is_part(self.weight):
            return "the host is sharded, and no process has the whole weight of the linear map"
        stored = type(self.weight)
        if stored not in (Tensor, nn.Parameter) or not self.weight.is_floating_point():
            return f"the linear map keeps its weight as {stored.__name__} of {self.weight.dtype}"
        return None

    def plain_base(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None] | None:
        """The base's weight [d_out, d_in] and bias, if a function may compute with them in the base's place.

        That needs a plain base of this type, frozen, with no hook that waits for its call.
        """
        if self.why_not_plain() is not None or self.weight.dtype != dtype or is_hooked(self.base):
            return None
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        trained = self.weight.requires_grad or (bias is not None and bias.requires_grad)
        return None if trained else (self.base_weight(), bias)

    def untouched(self, x: Tensor) -> Tensor:
        """The bare host's output here: x [..., d_in] -> [..., d_out]."""
        h: Tensor = self.base(x)
        return h

    def base_with(self, x: Tensor, weight: Tensor) -> Tensor:
        """The base's output with another weight [d_out, d_in]: x [..., d_in] -> [..., d_out]."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return F.linear(x, weight, bias)

    def new_tensor(self, *shape: int) -> Tensor:
        """Zeros on the base's device, in at least float32, whatever the host is stored in."""
        stored = next(itertools.chain(self.base.parameters(), self.base.buffers()), None)
        if stored is None:  # some quantized maps hide what they keep
            return torch.zeros(*shape, dtype=torch.float32)
        dtype = stored.dtype if stored.dtype == torch.float64 else torch.float32
        return torch.zeros(*shape, dtype=dtype, device=stored.device)


S = TypeVar("S", bound=Site)


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of this module runs hooks beside its forward."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def put_sites(model: nn.Module, linears: Mapping[str, nn.Module], wrap: Callable[[nn.Module], S]) -> dict[str, S]:
    """Replace each named linear map by `wrap(map)`; `take_away` undoes it.

    Args:
        model: The host.
        linears: Its linear maps by name.
        wrap: Makes a site of a linear map.

    Returns:
        The sites by name.
    """
    sites = {name: wrap(linear).train(linear.training) for name, linear in linears.items()}  # new ones would train
    put_back(model, sites)
    return sites


def put_back(model: nn.Module, sites: Mapping[str, Site]) -> None:
    """Put sites where their linear maps are."""
    for name, site in sites.items():
        put_module(model, name, site)
    if sites:
        forbid_saving(model)


def take_away(model: nn.Module, sites: Mapping[str, Site]) -> None:
    """Put every base back where it was, so that the host is as before, bit for bit."""
    for name, site in sites.items():
        put_module(model, name, site.base)
    if not any(isinstance(module, Site) for module in model.modules()):
        allow_saving(model)


def forbid_saving(model: nn.Module) -> None:
    """Put a refusal in front of transformers' `save_pretrained`, which would write names that no model knows."""
    if hasattr(model, "save_pretrained"):
        vars(model)["save_pretrained"] = _refuse_saving


def allow_saving(model: nn.Module) -> None:
    """Undo `forbid_saving`."""
    vars(model).pop("save_pretrained", None)


def _refuse_saving(*_: object, **__: object) -> None:
    raise ModelError(
        "This model carries a learner's adapter, which save_pretrained cannot write: use learner.save(folder), or "
        "learner.merged().save_pretrained(folder) for the model with the adapter added to its weights."
    )


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


BESIDE = "nacre_beside"
"""Name of the module that holds trained tensors of others than the adapter."""


def put_beside(model: nn.Module, module: nn.Module) -> None:
    """Make a module a part of the model that the model does not call, such as a routing's trained tensors.

    Whoever counts, moves or synchronizes the model's parameters finds them then. `take_from_beside` undoes it.
    """
    model.add_module(BESIDE, module)


def take_from_beside(model: nn.Module) -> None:
    """Undo `put_beside`; nothing happens where there is no such module."""
    if hasattr(model, BESIDE):
        delattr(model, BESIDE)


def pristine_tensors(model: nn.Module, places: Iterable[str]) -> dict[str, Tensor]:
    """The bare host's tensors by its own names.

    Args:
        model: The host.
        places: Names of the modules that replace one of the host's own, their `base`.
    """
    tensors = {}
    for key, tensor in model.state_dict().items():
        place = next((name for name in places if key.startswith(f"{name}.")), None)
        if key.startswith(f"{BESIDE}."):
            continue
        if place is None:
            tensors[key] = tensor
        elif key.startswith(base := f"{place}.base."):
            tensors[f"{place}.{key.removeprefix(base)}"] = tensor
    return tensors
