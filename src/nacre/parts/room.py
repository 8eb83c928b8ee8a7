"""How much room earlier tasks leave a new one that must not use their directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nacre.errors import TrainingError
from nacre.parts.used_directions import Factor

ADVICE = "a smaller rank, fewer tasks, or an energy below 1, which closes only what earlier tasks use most"


@dataclass(frozen=True)
class Room:
    """Of a factor's ``width`` dimensions, how many no earlier task uses."""

    factor: Factor
    left: int
    width: int


def tell_room(report: Callable[..., None], rooms: Sequence[Room]) -> None:
    """Report where least is left (``room``), and warn if the task after the one that begins may find fewer dimensions
    than it has vectors.

    Raises ``TrainingError`` if there are none for the one that begins.
    """
    if not rooms:
        return
    least = min(rooms, key=lambda room: room.left)
    factor, left, width = least.factor, least.left, least.width
    rank = factor.past.shape[1]
    if left == 0:
        raise TrainingError(
            f"{factor.site}: the earlier tasks' '{factor.group}' factors ({len(factor.past)} tasks of rank {rank}) "
            f"span all {width} dimensions, so that 0 are left for a new task to learn in. Take {ADVICE}."
        )
    report(
        "room",
        site=factor.site,
        factor=factor.group,
        left=left,
        width=width,
        remaining={room.factor.name: room.left for room in rooms},
    )
    if left < 2 * rank:
        report(
            "warning",
            text=f"{factor.site}: the earlier tasks' '{factor.group}' factors leave {left} of {width} dimensions. This "
            f"task may use {min(rank, left)} of them; the next one would find fewer than its rank, {rank}, and stop "
            f"where none is left. A longer stream needs {ADVICE}.",
        )
