"""The directions that earlier tasks' factors use, kept up to date task by task (for `parts/orthogonal_gradient`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nacre.errors import TrainingError
from nacre.events import FreeDimensionsCounted, OnEvent, Warned
from nacre.functional.projection import Space, directions_of_task
from nacre.functional.spans import Spans, extended, no_spans

ADVICE = "a smaller rank, fewer tasks, or an energy below 1, which closes only what earlier tasks use most"


@dataclass(frozen=True)
class Factor:
    """A trained factor of a site and the earlier tasks' ones, seen as rows: A's rows, B's columns, sigma whole.

    Attributes:
        site: Name of the site.
        group: Name of the parameter group: 'down', 'up' or 'sigma'.
        parameter: The newest task's factor.
        stack: The earlier tasks' factors, one after the other.
    """

    site: str
    group: str
    parameter: nn.Parameter
    stack: Tensor

    @property
    def name(self) -> str:
        """The site's name and the group's."""
        return f"{self.site}.{self.group}"

    @property
    def past(self) -> Tensor:
        """The earlier tasks' vectors, [t-1, r, d]; sigma's are [t-1, 1, r]."""
        return self.stack.unsqueeze(1) if self.group == "sigma" else self.stack

    def values(self) -> Tensor:
        """The newest vectors, [r, d], a view of the parameter's data."""
        return self._rows(self.parameter.detach())

    def gradients(self) -> Tensor:
        """Their gradients, [r, d], a view of the gradient; zeros if the host did not use the factor."""
        gradient = self.parameter.grad
        return self._rows(torch.zeros_like(self.parameter) if gradient is None else gradient)

    def _rows(self, tensor: Tensor) -> Tensor:
        if self.group == "sigma":
            return tensor.unsqueeze(0)
        return tensor.T if self.group == "up" else tensor


@dataclass(frozen=True)
class UsedDirections:
    """The directions that some tasks use, of n factors of one shape.

    Attributes:
        tasks: Number of those tasks.
        spans: The spans of their vectors.
        own: The rows D [n, q, d] of `functional.projection`, for spaces other than 'union'.
        newest: The last of those tasks' vectors, [n, r, d]; they show whether an adapter still holds these tasks.
    """

    tasks: int
    spans: Spans
    own: Tensor | None
    newest: Tensor

    @property
    def directions(self) -> Tensor:
        """The directions to remove."""
        return self.spans.basis if self.own is None else self.own


def up_to_date(known: UsedDirections | None, factors: Sequence[Factor], space: Space, energy: float) -> UsedDirections:
    """The directions of all earlier tasks: the known ones, extended by the tasks that they lack.

    If the known ones are of other tasks, all are computed anew, task by task, which gives the same bits.

    Args:
        known: Of some of the earlier tasks; None: of none.
        factors: n factors of one shape, with at least one earlier task.
        space: How the tasks' spans are joined.
        energy: Share of each factor's squared norm to hold.
    """
    used = known if known is not None and torch.equal(known.newest, _vectors(factors, known.tasks - 1)) else None
    for task in range(used.tasks if used else 0, len(factors[0].past)):
        vectors = _vectors(factors, task)
        spans = extended(used.spans if used else no_spans(vectors), vectors, energy=energy)
        own = None
        if space != "union":
            earlier = [used.own] if used is not None and used.own is not None else []
            own = torch.cat([*earlier, directions_of_task(vectors, space)], 1)
        used = UsedDirections(task + 1, spans, own, vectors)
    assert used is not None
    return used


def _vectors(factors: Sequence[Factor], task: int) -> Tensor:
    """One earlier task's vectors of all these factors, [n, r, d]; [n, 0, d] for a task that they do not have."""
    return torch.stack([factor.past[task : task + 1].flatten(0, 1) for factor in factors])


@dataclass(frozen=True)
class FreeDimensions:
    """The dimensions of a factor that no earlier task uses.

    Attributes:
        factor: The factor.
        left: Number of unused dimensions.
        width: Number of all its dimensions.
    """

    factor: Factor
    left: int
    width: int


def report_free_dimensions(on_event: OnEvent, free: Sequence[FreeDimensions]) -> None:
    """Report where the fewest dimensions are left, and warn if the next task may have fewer than it has vectors.

    Args:
        on_event: Called with what a person should know.
        free: The free dimensions of every factor that must keep off earlier tasks' directions.

    Raises:
        TrainingError: None are left for the task that begins.
    """
    if not free:
        return
    least = min(free, key=lambda each: each.left)
    factor, left, width = least.factor, least.left, least.width
    rank = factor.past.shape[1]
    if left == 0:
        raise TrainingError(
            f"{factor.site}: the earlier tasks' '{factor.group}' factors ({len(factor.past)} tasks of rank {rank}) "
            f"span all {width} dimensions, so that 0 are left for a new task to learn in. Take {ADVICE}."
        )
    on_event(
        FreeDimensionsCounted(
            site=factor.site,
            factor=factor.group,
            left=left,
            width=width,
            remaining={each.factor.name: each.left for each in free},
        )
    )
    if left < 2 * rank:
        on_event(
            Warned(
                f"{factor.site}: the earlier tasks' '{factor.group}' factors leave {left} of {width} dimensions. This "
                f"task may use {min(rank, left)} of them; the next one would find fewer than its rank, {rank}, and "
                f"stop where none is left. A longer stream needs {ADVICE}."
            )
        )
