"""Which directions earlier tasks' factors use, kept up to date task by task (for ``parts/orthogonal_gradient``)."""

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
    """One trained factor of one site, and the earlier tasks' ones, seen as rows: A's rows, B's columns, sigma whole."""

    site: str
    group: str
    parameter: nn.Parameter
    stack: Tensor

    @property
    def name(self) -> str:
        return f"{self.site}.{self.group}"

    @property
    def past(self) -> Tensor:
        """[t-1, r, d]; sigma: [t-1, 1, r]."""
        return self.stack.unsqueeze(1) if self.group == "sigma" else self.stack

    def values(self) -> Tensor:
        """[r, d], a view of the parameter's data."""
        return self._rows(self.parameter.detach())

    def gradients(self) -> Tensor:
        """[r, d], a view of the gradient; of zeros if the host never came by."""
        gradient = self.parameter.grad
        return self._rows(torch.zeros_like(self.parameter) if gradient is None else gradient)

    def _rows(self, tensor: Tensor) -> Tensor:
        if self.group == "sigma":
            return tensor.unsqueeze(0)
        return tensor.T if self.group == "up" else tensor


@dataclass(frozen=True)
class UsedDirections:
    """Of n factors of one shape, after some tasks. spans: of those tasks' vectors. own: for the spaces that are no
    union, the rows D [n, q, d] of ``functional.projection``. newest: [n, r, d], the last of those tasks' vectors, by
    which one can tell whether an adapter still holds these tasks."""

    tasks: int
    spans: Spans
    own: Tensor | None
    newest: Tensor

    @property
    def directions(self) -> Tensor:
        """What is to be removed."""
        return self.spans.basis if self.own is None else self.own


def up_to_date(known: UsedDirections | None, factors: Sequence[Factor], space: Space, energy: float) -> UsedDirections:
    """Of all earlier tasks of these factors, of which there is one at least: what is ``known``, extended by the tasks
    that are not yet in it. Begun anew if it is not of these tasks; that gives the same bits, task by task."""
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
    """One earlier task's vectors of all these factors, [n, r, d]; nothing of a task that they do not have."""
    return torch.stack([factor.past[task : task + 1].flatten(0, 1) for factor in factors])


@dataclass(frozen=True)
class FreeDimensions:
    """Of a factor's ``width`` dimensions, how many no earlier task uses."""

    factor: Factor
    left: int
    width: int


def report_free_dimensions(on_event: OnEvent, free: Sequence[FreeDimensions]) -> None:
    """Report where the fewest dimensions are left, and warn if the task after the one that begins may find fewer
    dimensions than it has vectors.

    Args:
        on_event: Called with what a person should know.
        free: Of every factor that must keep off earlier tasks' directions.

    Raises:
        TrainingError: If none are left for the task that begins.
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
