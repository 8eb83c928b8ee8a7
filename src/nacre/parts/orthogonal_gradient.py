"""LB-CL's stage 2: a new task learns in directions that earlier tasks do not use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.slotted import low_rank_in, why_no_past
from nacre.errors import RecipeError
from nacre.functional.projection import Space, part_within
from nacre.functional.stacking import group_by_shape
from nacre.parts.part import GradientRule, LearnerView
from nacre.parts.used_directions import Factor, FreeDimensions, UsedDirections, report_free_dimensions, up_to_date
from nacre.tasks.task import Task


@dataclass(frozen=True)
class SpanShares:
    """What the rule remembers: how much of each task's change lay in the earlier tasks' span.

    Attributes:
        share_in_old_span: For each task, ||Q^T D|| / ||D|| of all factors' changes D, at its end.
    """

    share_in_old_span: list[float]


@dataclass(frozen=True)
class OrthogonalGradient(GradientRule):
    """Remove from each change its part in the span of earlier tasks' factors, site by site.

    A's (V's) rows keep off the rows of earlier A_k, B's (U's) columns off the columns of earlier B_k. Each task uses up
    to rank of a factor's dimensions; the number left is reported when a task begins (`FreeDimensionsCounted`).

    State: `SpanShares`. The directions themselves follow from the adapter; they are cached, but not saved.

    Attributes:
        space: How earlier tasks' spans are joined; see `functional.projection`. Only 'union' is a projection, so only
            it can act on the update.
        on: 'gradient': grad <- (I - Q Q^T) grad before the optimizer's step. An optimizer that divides by running
            means, as AdamW does, turns the step back into the span: its share there is smaller, not zero.
            'update': theta <- theta_0 + (I - Q Q^T)(theta - theta_0) after it, with theta_0 the value at the task's
            start: exact for every optimizer, and for weight decay. 'both': one after the other.
        sigma: 'none': trained freely; 'flat': the vector sigma, too, moves outside the span of earlier sigmas, which
            after rank tasks leaves it nowhere to go.
        energy: Share of each factor's squared norm that Q must hold, with as few directions as that takes
            (`functional.spans`). 1 holds all of them; less leaves later tasks more dimensions, and the directions left
            out unprotected.
    """

    State: ClassVar[type[SpanShares]] = SpanShares

    space: Space = "union"
    on: Literal["gradient", "update", "both"] = "gradient"
    sigma: Literal["none", "flat"] = "none"
    energy: float = 1.0

    def __post_init__(self) -> None:
        if self.on != "gradient" and self.space != "union":
            raise RecipeError(
                f"on='{self.on}' repeats the removal in every step, which needs a projection; space='{self.space}' is "
                "none where earlier tasks overlap: take space='union'."
            )
        if not 0 < self.energy <= 1:
            raise RecipeError(f"energy: {self.energy} is not in (0, 1]; it is a share, and 1 keeps every direction.")
        if self.energy < 1 and self.space != "union":
            raise RecipeError(
                f"energy: {self.energy} chooses directions of one span of all earlier tasks; space='{self.space}' has "
                "none: take space='union'."
            )

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if (missing := why_no_past(adapter)) is not None:
            return missing
        if self.sigma == "flat" and "sigma" not in adapter.groups:
            return "sigma='flat' needs an adapter with a sigma, as lb_cl's; 'none' works here"
        return None

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Bring the earlier tasks' directions up to date.

        Raises:
            TrainingError: Earlier tasks have used up all directions of a site.
        """
        known: dict[tuple[str, ...], UsedDirections] = learner.cache.get(self.key, {})
        groups = []
        for factors in group_by_shape(self._factors(learner), lambda factor: factor.past.shape, learner.host.device):
            used = up_to_date(known.get(_names(factors)), factors, self.space, self.energy)
            start = torch.stack([factor.values() for factor in factors])
            groups.append(FactorGroup(tuple(factors), used, start))
        learner.cache[self.key] = {_names(group.factors): group.used for group in groups}
        learner.resources[self.key] = Projection(groups)
        report_free_dimensions(learner.on_event, [free for group in groups for free in group.free_dimensions()])

    @torch.no_grad()
    def apply(self, learner: LearnerView) -> None:
        if self.on == "update":
            return
        for group in self._projection(learner).groups:
            gradients = [factor.gradients() for factor in group.factors]
            _subtract(gradients, part_within(torch.stack(gradients), group.used.directions))

    @torch.no_grad()
    def after_step(self, learner: LearnerView) -> None:
        if self.on == "gradient":
            return
        for group in self._projection(learner).groups:
            values = [factor.values() for factor in group.factors]
            _subtract(values, part_within(torch.stack(values) - group.start, group.used.directions))

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        before = learner.remembered(self, SpanShares)
        shares = [] if before is None else before.share_in_old_span
        learner.remember(self, SpanShares([*shares, self._projection(learner).share_in_span()]))

    def _factors(self, learner: LearnerView) -> Iterator[Factor]:
        """The factors that have a past, in the host's order."""
        for name, site in low_rank_in(learner.adapter).sites.items():
            parameters = site.parameters_by_group()
            for group, stack in site.past_by_group().items():
                if len(stack) and (group != "sigma" or self.sigma == "flat"):
                    yield Factor(name, group, parameters[group], stack)

    def _projection(self, learner: LearnerView) -> Projection:
        projection: Projection = learner.resources[self.key]
        return projection


@dataclass(frozen=True)
class FactorGroup:
    """The n factors of one shape, projected in one product.

    Attributes:
        factors: The factors.
        used: The earlier tasks' directions.
        start: The factors' values when the task began, [n, r, d].
    """

    factors: tuple[Factor, ...]
    used: UsedDirections
    start: Tensor

    def free_dimensions(self) -> list[FreeDimensions]:
        """The free dimensions of each matrix; a sigma's run out by design."""
        width = self.start.shape[-1]
        dimensions = self.used.spans.dimensions.tolist()
        pairs = zip(self.factors, dimensions, strict=True)
        return [FreeDimensions(factor, width - used, width) for factor, used in pairs if factor.group != "sigma"]


@dataclass(frozen=True)
class Projection:
    """The groups of factors while a task is learned; none on the first, which has no past."""

    groups: list[FactorGroup]

    def share_in_span(self) -> float:
        """||Q^T D|| / ||D||, D the change of all factors together since the task's start; 0 without any change."""
        inside, whole = torch.zeros(()), torch.zeros(())
        for group in self.groups:
            change = torch.stack([factor.values() for factor in group.factors]) - group.start
            inside += part_within(change, group.used.spans.basis).square().sum().cpu()
            whole += change.square().sum().cpu()
        return (inside / whole).sqrt().item() if whole else 0.0


def _names(factors: Sequence[Factor]) -> tuple[str, ...]:
    return tuple(factor.name for factor in factors)


def _subtract(rows: Sequence[Tensor], amounts: Tensor) -> None:
    """Subtract amounts [n, r, d] from the n rows, each [r, d], in place."""
    for row, amount in zip(rows, amounts, strict=True):
        row.sub_(amount)
