"""LB-CL's stage 2: a new task learns in directions that earlier tasks do not use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nacre.adapters.adapter import Adapter
from nacre.errors import RecipeError, TrainingError
from nacre.functional.projection import Space, part_within, used_directions
from nacre.parts.gradient_rule import GradientRule
from nacre.parts.part import Learner
from nacre.parts.slots import slots_of, without_slots
from nacre.tasks.task import Task


@dataclass(frozen=True)
class OrthogonalGradient(GradientRule):
    """What of a change lies in the span of earlier tasks' factors is taken out: of A's (V's) rows by the rows of
    earlier A_k, of B's (U's) columns by the columns of earlier B_k, site by site.

        on = ``gradient``: grad <- (I - Q Q^T) grad before the optimizer's step. An optimizer that divides by running
            means, as AdamW does, turns the step back into the span: its share there is smaller, not zero.
        on = ``update``: theta <- theta_0 + (I - Q Q^T)(theta - theta_0) after it, theta_0 the value at the task's
            start: exact for every optimizer, and decay.  ``both``: one and the other.

    space: how earlier tasks' spans are joined, see ``functional.projection.used_directions``. Only ``union`` is a
        projection, so that only it can act on the update.
    sigma: ``none``: trained freely; ``flat``: the vector sigma, too, moves outside the span of earlier sigmas, which
        after rank tasks leaves it nowhere to go.

    State: ``share_in_old_span``: for each task, ||Q^T D|| / ||D|| of all factors' changes D, at its end.
    """

    space: Space = "union"
    on: Literal["gradient", "update", "both"] = "gradient"
    sigma: Literal["none", "flat"] = "none"

    def __post_init__(self) -> None:
        if self.on != "gradient" and self.space != "union":
            raise RecipeError(
                f"on='{self.on}' repeats the removal in every step, which needs a projection; space='{self.space}' is "
                "none where earlier tasks overlap: take space='union'."
            )

    def objection(self, adapter: Adapter) -> str | None:
        if (missing := without_slots(adapter)) is not None:
            return missing
        if self.sigma == "flat" and "sigma" not in adapter.groups:
            return "sigma='flat' needs an adapter with a sigma, as lb_cl's; 'none' works here"
        return None

    def begin(self, learner: Learner, tasks: Sequence[Task]) -> None:
        """Raises ``TrainingError`` if earlier tasks have used up all directions of a site."""
        families: dict[tuple[int, ...], list[Factor]] = defaultdict(list)
        for factor in self._factors(learner):
            families[factor.past.shape].append(factor)
        learner.held[self.key] = Projection([self._family(factors) for factors in families.values()])

    @torch.no_grad()
    def apply(self, learner: Learner) -> None:
        if self.on == "update":
            return
        for family in self._projection(learner).families:
            gradients = [factor.gradients() for factor in family.factors]
            _subtract(gradients, part_within(torch.stack(gradients), family.directions))

    @torch.no_grad()
    def after_step(self, learner: Learner) -> None:
        if self.on == "gradient":
            return
        for family in self._projection(learner).families:
            values = [factor.values() for factor in family.factors]
            _subtract(values, part_within(torch.stack(values) - family.start, family.directions))

    def end(self, learner: Learner, tasks: Sequence[Task]) -> None:
        state = learner.state.parts.setdefault(self.key, {"share_in_old_span": []})
        state["share_in_old_span"] = [*state["share_in_old_span"], self._projection(learner).share_in_span()]

    def _factors(self, learner: Learner) -> Iterator[Factor]:
        """All that have a past, in the host's order."""
        for name, site in slots_of(learner.adapter).sites.items():
            parameters = site.parameters_by_group()
            for group, stack in site.past_by_group().items():
                if len(stack) and (group != "sigma" or self.sigma == "flat"):
                    yield Factor(name, group, parameters[group], stack)

    def _family(self, factors: Sequence[Factor]) -> Family:
        spans = [used_directions(factor.past, "union") for factor in factors]
        for factor, span in zip(factors, spans, strict=True):
            _check_room(factor, span)
        span = directions = pad_sequence(spans, batch_first=True)  # rows of zeros, which remove nothing, fill up
        if self.space != "union":
            others = [used_directions(factor.past, self.space) for factor in factors]
            directions = pad_sequence(others, batch_first=True)
        return Family(
            factors=tuple(factors),
            span=span,
            directions=directions,
            start=torch.stack([factor.values() for factor in factors]),
        )

    def _projection(self, learner: Learner) -> Projection:
        projection = learner.held[self.key]
        assert isinstance(projection, Projection)
        return projection


@dataclass(frozen=True)
class Factor:
    """One trained factor of one site, and the earlier tasks' ones, seen as rows: A's rows, B's columns, sigma whole."""

    site: str
    group: str
    parameter: nn.Parameter
    stack: Tensor

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
class Family:
    """The n factors of one shape, worked on in one product. span, directions [n, q, d]: orthonormal rows of the old
    spans; what is removed. start [n, r, d]: where the task began."""

    factors: tuple[Factor, ...]
    span: Tensor
    directions: Tensor
    start: Tensor


@dataclass(frozen=True)
class Projection:
    """What the rule holds while a task is learnt: nothing on the first, which has no past."""

    families: list[Family]

    def share_in_span(self) -> float:
        """||Q^T D|| / ||D||, D the changes of all factors together since the task's start; 0 without any."""
        inside, whole = torch.zeros(()), torch.zeros(())
        for family in self.families:
            change = torch.stack([factor.values() for factor in family.factors]) - family.start
            inside += part_within(change, family.span).square().sum().cpu()
            whole += change.square().sum().cpu()
        return (inside / whole).sqrt().item() if whole else 0.0

    def close(self) -> None:
        """It has no hooks to take away."""


def _subtract(rows: Sequence[Tensor], amounts: Tensor) -> None:
    """In place: rows, each [r, d], minus amounts [sites, r, d]."""
    for row, amount in zip(rows, amounts, strict=True):
        row.sub_(amount)


def _check_room(factor: Factor, span: Tensor) -> None:
    used, width = span.shape
    if factor.group != "sigma" and used == width:
        raise TrainingError(
            f"{factor.site}: the earlier tasks' '{factor.group}' factors ({len(factor.stack)} tasks of rank "
            f"{factor.stack.shape[1]}) span all {width} dimensions, so that 0 are left for a new task to learn in. "
            "Take a smaller rank, or fewer tasks."
        )
