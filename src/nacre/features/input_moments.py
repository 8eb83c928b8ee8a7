"""Second moments of what linear maps read: the mean over a task's tokens of h h^T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nacre.features.site_inputs import read_site_inputs
from nacre.models.families import Encoded
from nacre.models.host import Host


@dataclass(frozen=True)
class InputMoments:
    """What the maps read.

    Attributes:
        first: Of each map, the name of the first one that reads the same inputs, often its own.
        moments: Of these first ones, the mean of h h^T in float64 [d_in, d_in].
    """

    first: dict[str, str]
    moments: dict[str, Tensor]


def read_input_moments(host: Host, rows: Sequence[Encoded], places: Sequence[str], batch_size: int) -> InputMoments:
    """Read rows as `features/site_inputs` does; maps of one attention that read the same states share a moment.

    Args:
        host: As it computes at present.
        rows: Of a task.
        places: Names of linear maps in `host.body`.
        batch_size: Rows read at once.
    """
    first: dict[str, str] = {}
    sums: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}
    newest: list[tuple[str, Tensor]] = []

    def visit(place: str, inputs: Tensor) -> None:
        if newest and newest[0][1] is inputs:
            first[place] = newest[0][0]
            return
        newest[:] = [(place, inputs)]
        first[place] = place
        exact = inputs.double()
        moment = exact.T @ exact
        sums[place] = sums[place].add_(moment) if place in sums else moment
        tokens[place] = tokens.get(place, 0) + len(exact)

    read_site_inputs(host, rows, places, visit, batch_size)
    return InputMoments(first, {place: total / tokens[place] for place, total in sums.items()})
