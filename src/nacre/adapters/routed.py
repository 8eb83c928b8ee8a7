"""Slots that answer row by row of a batch, as a routing decides, in place of what an adapter does by itself."""

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
from nacre.functional.segments import NONE, Segments


class RoutedSite(Protocol):
    """A site whose slots a route may choose among, or weight."""

    rows: Segments | Tensor | None
    """The slot that answers each row, or the weights of all slots for each row [B, t]; None: as the site combines its
    slots by itself."""


def slot_rows(route: Route, slots: int, *, are_own: bool) -> Segments | Tensor | None:
    """How a route's rows are answered by an adapter's slots: by one each, or by weights; None if it does not say.

    Args:
        route: The route.
        slots: t, the number of open slots.
        are_own: Whether each task has a slot, or gates, of its own.

    Raises:
        ModelError: The adapter cannot follow the route.
    """
    if route.prompts is not None:
        raise ModelError("This adapter has no prompts that a route could choose from.")
    if not route.names_slots:
        return rows_of(route, slots)
    if not are_own:
        raise ModelError("All tasks share one slot here, so that there are none to be weighted.")
    return rows_of(route, slots)


def rows_of(route: Route, slots: int) -> Segments | Tensor | None:
    """The slots or weights that a route gives its rows; None if it gives none.

    Args:
        route: The route.
        slots: t, the number of open slots.

    Raises:
        ModelError: There is no slot yet, its weights or numbers do not fit the slots, or it offsets scores of gates.
    """
    if route.score_offsets is not None:
        raise ModelError("This adapter has no gates whose scores a route could offset.")
    if route.slots is not None:
        return segments_of(route.slots, slots)
    if route.weights is not None:
        check_weights(route.weights, slots)
    return route.weights


def slot_weights(route: Route, slots: int) -> Tensor | None:
    """The weights [B, t] of an adapter's slots for a route's rows, of chosen slots 0 and 1; None if it gives none.

    Args:
        route: The route.
        slots: t, the number of open slots, of which each task has one of its own.

    Raises:
        ModelError: The adapter cannot follow the route.
    """
    slot_rows(route, slots, are_own=True)
    return route.as_weights(slots)


def gate_weights(route: Route, slots: int) -> Tensor | None:
    """The weights [B, t] of the tasks' gates for a route's rows; None where the newest task's gate every row.

    Args:
        route: The route.
        slots: t, the number of tasks.

    Raises:
        ModelError: The adapter cannot follow the route.
    """
    rows = slot_rows(route, slots, are_own=True)
    if isinstance(rows, Segments) and rows.is_all(slots - 1):
        return None
    return route.as_weights(slots)


def segments_of(chosen: Tensor, slots: int) -> Segments:
    """The rows by their slots; this waits for the device that the numbers are on.

    Args:
        chosen: The slot of each row, or `NONE`, [B].
        slots: t, the number of open slots.

    Raises:
        ModelError: There is no slot yet, or a number that is none of a slot.
    """
    if slots == 0:
        raise ModelError("Slots were chosen for rows, and no slot has been opened yet.")
    if chosen.ndim != 1 or chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise ModelError(
            f"A route chooses one slot for each row, as whole numbers [rows]; given were {list(chosen.shape)} of "
            f"{chosen.dtype}."
        )
    numbers = tuple(chosen.tolist())
    if any(not NONE <= number < slots for number in numbers):
        wrong = next(number for number in numbers if not NONE <= number < slots)
        raise ModelError(f"A route chooses slot {wrong}, and the open slots are 0 to {slots - 1}; {NONE} is none.")
    return Segments(numbers)


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


@contextmanager
def answered_by(sites: Collection[RoutedSite], rows: Segments | Tensor | None) -> Iterator[None]:
    """While open, the sites answer row by row as given."""
    before = [(site, site.rows) for site in sites]
    for site in sites:
        site.rows = rows
    try:
        yield
    finally:
        for site, rows_before in before:
            site.rows = rows_before


def weights_of_rows(weights: Tensor, x: Tensor) -> Tensor:
    """The weights of each row that a linear map reads or writes: [B, t] -> [B * copies, t].

    Args:
        weights: One row for each row of the batch.
        x: What the map reads or writes, [B * copies, ..., d].

    Raises:
        ModelError: The rows of x are not those of the weights, each standing in equally many places.
    """
    return weights.repeat_interleave(_copies(len(weights), x), dim=0)


def segments_of_rows(segments: Segments, x: Tensor) -> Segments:
    """The slots of each row that a linear map reads or writes, B * copies of them.

    Args:
        segments: The slot of each row of the batch.
        x: What the map reads or writes, [B * copies, ..., d].

    Raises:
        ModelError: The rows of x are not those of the segments, each standing in equally many places.
    """
    return segments.copied(_copies(len(segments.numbers), x))


def _copies(rows: int, x: Tensor) -> int:
    if x.ndim < 2 or len(x) % rows:
        raise ModelError(
            f"A route was given for {rows} rows, and a linear map is to answer an input of shape "
            f"{list(x.shape)}: its first dimension must be the rows, once or several times."
        )
    return len(x) // rows


def mixed_slots(x: Tensor, seen: Tensor, slots: SlotStack, weights: Tensor, *, scale: float) -> Tensor:
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
    if slots.has_companions:
        companion_down, companion_up = slots.companion_pairs()
        codes = torch.cat([codes, low_rank_codes(x, companion_down)], dim=-2)
        gates, up = torch.cat([gates, gates[..., 1:]], dim=-1), torch.cat([up, companion_up])
    return mixed_update(codes, gates, up, scale=scale)
