"""A site: one linear map of the host that carries an adapter, and the reversible act of putting it there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class Site(nn.Module):
    """Holds the untouched linear map as ``base``; subclasses add parameters and define the forward.

    d_in, d_out: sizes of the map, as it says them itself: a quantized one keeps its weight in another shape and type.
    GPT-2's ``Conv1D`` stores its weight as [d_in, d_out]; ``base_weight`` hides that.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        sizes = (base.nx, base.nf) if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        self.d_in, self.d_out = (int(size) for size in sizes)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """The base's own weight: some hosts (T5's feed-forward) look at it to choose a precision."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    def base_weight(self) -> Tensor:
        """The pristine weight as [d_out, d_in], a view; of a plain base only (``why_not_plain``)."""
        return self.weight.T if isinstance(self.base, Conv1D) else self.weight

    def why_not_plain(self) -> str | None:
        """Why the base's weight is not all that it computes with; None of an ordinary linear map, which is
        x W^T + bias with numbers that can be read. Only there may something else be computed in the base's place."""
        kind = type(self.base)
        if kind not in (nn.Linear, Conv1D) or "forward" in vars(self.base):
            return f"the linear map ({kind.__name__}) computes in a way of its own, as quantized ones do"
        stored = type(self.weight)
        if stored not in (Tensor, nn.Parameter) or not self.weight.is_floating_point():
            return f"the linear map keeps its weight as {stored.__name__} of {self.weight.dtype}"
        return None

    def plain_base(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None] | None:
        """The base's weight [d_out, d_in] and bias, if a function may compute with them in the base's place: a plain
        base of this type, frozen, with no hook that waits for its call."""
        if self.why_not_plain() is not None or self.weight.dtype != dtype or is_hooked(self.base):
            return None
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        trained = self.weight.requires_grad or (bias is not None and bias.requires_grad)
        return None if trained else (self.base_weight(), bias)

    def untouched(self, x: Tensor) -> Tensor:
        """What the host computes here: x [..., d_in] -> [..., d_out]."""
        h: Tensor = self.base(x)
        return h

    def base_with(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the base would compute with another weight [d_out, d_in]: x [..., d_in] -> [..., d_out]."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return F.linear(x, weight, bias)

    def new_tensor(self, *shape: int) -> Tensor:
        """Zeros on the base's device. Adapters are kept in at least float32, whatever the host is stored in."""
        stored = next(itertools.chain(self.base.parameters(), self.base.buffers()), None)
        if stored is None:  # some quantized maps hide what they keep
            return torch.zeros(*shape, dtype=torch.float32)
        dtype = stored.dtype if stored.dtype == torch.float64 else torch.float32
        return torch.zeros(*shape, dtype=dtype, device=stored.device)


def is_hooked(module: nn.Module) -> bool:
    """Whether something happens when this module itself is called, beside its forward."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def put_sites(model: nn.Module, linears: Mapping[str, nn.Module], wrap: Callable[[nn.Module], Site]) -> dict[str, Site]:
    """Replace each named linear map by ``wrap(map)``. Returns name -> site. ``take_away`` undoes it."""
    sites = {}
    for name, linear in linears.items():
        sites[name] = wrap(linear).train(linear.training)  # a new module would start in training mode
        _replace(model, name, sites[name])
    return sites


def take_away(model: nn.Module, sites: Mapping[str, Site]) -> None:
    """Put every base back where it was: the host is bit for bit what it was before."""
    for name, site in sites.items():
        _replace(model, name, site.base)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
