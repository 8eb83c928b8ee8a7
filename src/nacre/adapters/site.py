"""A site: one linear map of the host that carries an adapter, and the reversible act of putting it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class Site(nn.Module):
    """Holds the untouched linear map as ``base``; subclasses add parameters and define the forward.

    d_in, d_out: sizes of the map. GPT-2's ``Conv1D`` stores its weight as [d_in, d_out]; ``base_weight`` hides that.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.d_out, self.d_in = self.base_weight().shape

    @property
    def weight(self) -> Tensor:
        """The base's own weight: some hosts (T5's feed-forward) look at it to choose a precision."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def base_weight(self) -> Tensor:
        """The pristine weight as [d_out, d_in], a view."""
        return self.weight.T if isinstance(self.base, Conv1D) else self.weight

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
        weight = self.base_weight()
        dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
        return torch.zeros(*shape, dtype=dtype, device=weight.device)


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
