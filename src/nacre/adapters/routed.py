"""Low-rank slots that are weighted row by row of a batch, as a routing decides, in place of their plain sum."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from nacre.adapters.route import Route
from nacre.adapters.slots import SlotStack
from nacre.errors import ModelError
from nacre.functional.gating import low_rank_codes, mixed_update


class RoutedSite(Protocol):
    """A site whose slots a route may weight."""

    row_weights: Tensor | None
    """The weight of each slot for each row of the batch [B, t]; None: as the site combines its slots by itself."""


def slot_weights(route: Route, slots: int, *, are_own: bool) -> Tensor | None:
    """The weights that a route gives an adapter's slots; None if it gives none.

    Args:
        route: The route.
        slots: t, the number of open slots.
        are_own: Whether each task has a slot, or gates, of its own.

    Raises:
        ModelError: The adapter cannot follow the route.
    """
    if route.prompts is not None:
        raise ModelError("This adapter has no prompts that a route could choose from.")
    if route.weights is not None:
        if not are_own:
            raise ModelError("All tasks share one slot here, so that there are none to be weighted.")
        check_weights(route.weights, slots)
    return route.weights


@contextmanager
def rows_weighted(sites: Collection[RoutedSite], weights: Tensor | None) -> Iterator[None]:
    """While open, the sites' slots are weighted row by row."""
    before = [(site, site.row_weights) for site in sites]
    for site in sites:
        site.row_weights = weights
    try:
        yield
    finally:
        for site, weights_before in before:
            site.row_weights = weights_before


def check_weights(weights: Tensor, slots: int) -> None:
    """Refuse weights that do not fit the open slots.

    Args:
        weights: One row for each row of the batch, one column for each slot, newest last: [B, t].
        slots: t, the number of open slots.

    Raises:
        ModelError: There is no slot yet, or another number of columns.
    """
    if slots == 0:
        raise ModelError("Weights for slots were given, and no slot has been opened yet.")
    if weights.ndim != 2 or weights.shape[1] != slots or not weights.is_floating_point():
        raise ModelError(
            f"Weights for slots are numbers [rows, {slots}], one for each open slot; given were "
            f"{list(weights.shape)} of {weights.dtype}."
        )


def weights_of_rows(weights: Tensor, x: Tensor) -> Tensor:
    """The weights of each row that a linear map reads or writes: [B, t] -> [B * copies, t].

    Args:
        weights: One row for each row of the batch.
        x: What the map reads or writes, [B * copies, ..., d].

    Raises:
        ModelError: The rows of x are not those of the weights, each standing in equally many places.
    """
    if x.ndim < 2 or len(x) % len(weights):
        raise ModelError(
            f"Weights for slots were given for {len(weights)} rows, and a linear map is to answer an input of shape "
            f"{list(x.shape)}: its first dimension must be the rows, once or several times."
        )
    return weights.repeat_interleave(len(x) // len(weights), dim=0)


def routed_update(x: Tensor, seen: Tensor, slots: SlotStack, weights: Tensor, *, scale: float) -> Tensor:
    """`sum_i w_bi s B_i A_i x_b`, in rank space; where updates count from their start, each without that.

    The newest `A` is called as a module, because hooks may wait for its call. Gradients reach the newest factors,
    through their weight, and the weights.

    Args:
        x: The earlier tasks' input [B, ..., d_in].
        seen: The newest task's input, x with dropout [B, ..., d_in].
        slots: The factors of all tasks.
        weights: `w` [B, t], newest last.
        scale: `s`.

    Returns:
        [B, ..., d_out].

    Raises:
        ModelError: The rows of x are not those of the weights, each standing in equally many places.
    """
    weights = weights_of_rows(weights, x)
    codes = torch.cat([low_rank_codes(x, slots.past_down), slots.down(seen).unsqueeze(-2)], dim=-2)  # [B, ..., t, r]
    gates = weights.to(codes).view(len(weights), *[1] * (x.ndim - 2), -1)  # [B, 1, ..., t]
    _, up = slots.all_pairs()
    if slots.from_start:
        origin_down, origin_up = slots.origin_pairs()
        codes = torch.cat([codes, low_rank_codes(x, origin_down)], dim=-2)
        gates, up = torch.cat([gates, gates[..., 1:]], dim=-1), torch.cat([up, origin_up])
    return mixed_update(codes, gates, up, scale=scale)
