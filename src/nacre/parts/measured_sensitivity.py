"""The sensitivities of earlier tasks' triplets, read from a backward pass (for `parts/sensitivity_start`).

Where earlier tasks are folded into one weight of full precision, that weight takes the gradient, and its products with
the triplets' factors are their gradients: one dense product a site, whatever the number of tasks. Elsewhere (gated
mixtures, past in rank space) the triplets themselves are leaves. Both give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nacre.adapters.gated import PlacedGated
from nacre.adapters.slotted import PlacedSlots, SlottedSite
from nacre.functional.sensitivity import Triplets, folded_gradients, triplet_sensitivity


@dataclass(frozen=True)
class Measured:
    """Sensitivities under measurement.

    Attributes:
        leaves: The tensors that a backward pass must reach.
        sensitivities: The sums so far, by the site's name, [t-1, r].
        add: Adds a backward pass to the sums; to be called after each.
    """

    leaves: list[Tensor]
    sensitivities: dict[str, Tensor]
    add: Callable[[], None]


def is_dense(site: SlottedSite) -> bool:
    """Whether the site computes its earlier tasks with one weight that is precise enough to measure them."""
    return site.past_weight is not None and site.past_weight.dtype in (torch.float32, torch.float64)


@contextmanager
def through_folded(adapter: PlacedSlots[Any], names: Collection[str]) -> Iterator[Measured]:
    """While open, these sites are plain linear maps with the folded weights of the last task's end.

    A weight's gradient is turned into sensitivities as soon as it exists and then dropped, so that no two are kept.

    Args:
        adapter: Placed, with its newest slot all zeros.
        names: The sites; all of them dense (`is_dense`).
    """
    sites = {name: adapter.sites[name] for name in names}
    found = {
        name: site.past_by_group()["down"].new_zeros(site.past_by_group()["down"].shape[:2])
        for name, site in sites.items()
    }
    maps = {name: _as_linear(site) for name, site in sites.items()}

    def read(name: str) -> Callable[[Tensor], None]:
        past = Triplets(**sites[name].past_by_group())

        @torch.no_grad()
        def at_once(weight: Tensor) -> None:
            assert weight.grad is not None
            slopes = folded_gradients(past, weight.grad, scale=sites[name].scale)
            found[name] += triplet_sensitivity(past, slopes)
            weight.grad = None

        return at_once

    try:
        for name, linear in maps.items():
            linear.weight.register_post_accumulate_grad_hook(read(name))  # type: ignore[no-untyped-call]
            adapter.model.set_submodule(name, linear)
        yield Measured([linear.weight for linear in maps.values()], found, lambda: None)
    finally:
        for name, site in sites.items():
            adapter.model.set_submodule(name, site)


@contextmanager
def through_triplets(adapter: PlacedSlots[Any], names: Collection[str]) -> Iterator[Measured]:
    """While open, the host computes through the earlier tasks' own tensors, and these are leaves.

    Args:
        adapter: Placed, with its newest slot all zeros.
        names: The sites to measure.
    """
    found: dict[str, Tensor] = {}
    with adapter.past_open() as opened, _without_newest(adapter):
        leaves = {name: opened[name] for name in names}

        @torch.no_grad()
        def add() -> None:
            for name, by_group in leaves.items():
                past = Triplets(**{group: leaf.detach() for group, leaf in by_group.items()})
                slopes = Triplets(**{group: _taken(leaf) for group, leaf in by_group.items()})
                new = triplet_sensitivity(past, slopes)
                found[name] = found[name] + new if name in found else new

        yield Measured([leaf for by_group in leaves.values() for leaf in by_group.values()], found, add)


def _as_linear(site: SlottedSite) -> nn.Linear:
    """The site between tasks, as a linear map whose weight is the folded one."""
    assert site.past_weight is not None
    linear = nn.Linear(site.d_in, site.d_out, bias=False, device="meta")
    linear.weight = nn.Parameter(site.past_weight)
    bias = site.base.bias
    if bias is not None:
        assert isinstance(bias, nn.Parameter)
        linear.bias = bias
    return linear.train(site.training)


def _taken(leaf: Tensor) -> Tensor:
    """The leaf's gradient, taken from it; zeros where the loss does not depend on it."""
    gradient, leaf.grad = leaf.grad, None
    return torch.zeros_like(leaf) if gradient is None else gradient


@contextmanager
def _without_newest(adapter: PlacedSlots[Any]) -> Iterator[None]:
    """While open, the newest slot takes no part in a softmax over the tasks, where a slot of zeros has a share."""
    if not isinstance(adapter, PlacedGated):
        yield
        return
    adapter.set_offset(math.inf)
    try:
        yield
    finally:
        adapter.set_offset(0.0)
