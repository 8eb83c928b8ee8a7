"""DAS's soft masks: what matters for earlier knowledge is trained less, unit by unit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter
from nacre.adapters.full import Full
from nacre.errors import RecipeError
from nacre.events import Warned
from nacre.features.units import UnitSite, gated, open_gates, unit_sites
from nacre.functional.dark_logits import target_places
from nacre.functional.soft_masks import normalized_importance, state_divergence
from nacre.models.families import Encoded
from nacre.models.last_states import last_states
from nacre.parts.part import GradientRule, LearnerView
from nacre.randomness import seeded
from nacre.seeds import derive
from nacre.tasks.task import Task

ROWS_AT_ONCE = 16
"""Rows of a batch in which importances are measured; each row has gates of its own, so that results do not depend on
it."""

RowLosses = Callable[[LearnerView, Sequence[Encoded]], Tensor]
"""A loss for each row of a batch, [B]."""


@dataclass(frozen=True)
class SoftMaskState:
    """What the soft mask remembers.

    Attributes:
        importance: Of each unit, the largest so far, by the name of the units' site: [units] in [0, 1].
    """

    importance: dict[str, Tensor]


@dataclass
class OpenMask:
    """What lives while a task is learned.

    Attributes:
        slices: Each masked parameter, with the share of its movement that stays, as a tensor that fits it.
        before: The parameters before the step, where the update is masked.
    """

    slices: list[tuple[nn.Parameter, Tensor]]
    before: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class SoftMask(GradientRule):
    """Gradients of a unit's incoming weights and bias, times 1 - I, I the unit's importance for what was known before.

    Units are attention heads, the feed-forward's intermediate neurons and its outputs. The importance of earlier tasks
    is measured after each of them by its loss; that of general knowledge before the first, by the divergence between
    two passes with dropout. They are joined by their maximum. The forward pass is not masked.

    State: `SoftMaskState`.

    Attributes:
        mask: 'gradient': before the optimizer, where AdamW nearly undoes a factor that stays the same; 'update': what
            the optimizer changes, times 1 - I.
        importance_rows: Number of rows to measure at most.
    """

    State: ClassVar[type[SoftMaskState]] = SoftMaskState

    mask: Literal["gradient", "update"] = "gradient"
    importance_rows: int = 10_000

    def __post_init__(self) -> None:
        if self.importance_rows < 1:
            raise RecipeError(f"importance_rows: {self.importance_rows} is not a positive number of rows to measure.")

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, Full):
            return None
        return "it masks the host's own weights, unit by unit, and here they are frozen or gated; seq_ft trains them"

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Before the first task, measure what matters for general knowledge."""
        if learner.remembered(self, SoftMaskState) is not None:
            return
        sites = unit_sites(learner.host.body)
        where = (learner.state.seed, self.key, "general")
        learner.host.model.train()
        try:
            with seeded(derive(*where, "dropout")):
                raw = measured(learner, sites, self._rows(learner, tasks, "general"), proxy_losses)
        finally:
            learner.host.model.eval()  # as it is between tasks
        if not any(bool(importance.any()) for importance in raw.values()):
            learner.on_event(
                Warned(
                    "Two passes of the model do not differ, because it has no dropout: DAS measures no importance for "
                    "general knowledge. model_dropout sets one."
                )
            )
        self._join(learner, raw)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        remembered = learner.remembered(self, SoftMaskState)
        assert remembered is not None  # since `prepare`
        slices = []
        for site in unit_sites(learner.host.body):
            for incoming in site.incoming:
                stays = 1 - site.by_feature(remembered.importance[site.name], incoming)
                for parameter, axis in incoming.parameters:
                    shape = [1] * parameter.dim()
                    shape[axis] = -1
                    slices.append((parameter, stays.to(parameter).view(shape)))
        learner.resources[self.key] = OpenMask(slices)

    @torch.no_grad()
    def apply(self, learner: LearnerView) -> None:
        mask: OpenMask = learner.resources[self.key]
        if self.mask == "update":
            mask.before = [parameter.detach().clone() for parameter, _ in mask.slices]
            return
        for parameter, stays in mask.slices:
            if parameter.grad is not None:
                parameter.grad.mul_(stays)

    @torch.no_grad()
    def after_step(self, learner: LearnerView) -> None:
        mask: OpenMask = learner.resources[self.key]
        for (parameter, stays), before in zip(mask.slices, mask.before, strict=bool(mask.before)):
            torch.lerp(before, parameter, stays.expand_as(parameter), out=parameter)
        mask.before = []

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Measure what matters for the task that has just been learned."""
        sites = unit_sites(learner.host.body)
        self._join(learner, measured(learner, sites, self._rows(learner, tasks, "task"), task_losses))

    def _join(self, learner: LearnerView, raw: dict[str, Tensor]) -> None:
        before = learner.remembered(self, SoftMaskState)
        found = {name: normalized_importance(importance) for name, importance in raw.items()}
        if before is not None:
            found = {name: torch.maximum(before.importance[name], new) for name, new in found.items()}
        learner.remember(self, SoftMaskState(found))

    def _rows(self, learner: LearnerView, tasks: Sequence[Task], use: str) -> list[Encoded]:
        """A random sample of the training rows, in row order."""
        rows = learner.encode([example for task in tasks for example in task.examples("train")])
        draw = random.Random(derive(learner.state.seed, self.key, "rows", use, learner.task_number))
        return [rows[place] for place in sorted(draw.sample(range(len(rows)), min(self.importance_rows, len(rows))))]


def measured(
    learner: LearnerView, sites: Sequence[UnitSite], rows: Sequence[Encoded], losses: RowLosses
) -> dict[str, Tensor]:
    """Mean over rows of |d loss / d gate| for each unit, each row with gates of its own.

    Args:
        learner: Whose host computes, in its present mode.
        sites: The units.
        rows: The rows; they are not shuffled.
        losses: What is measured.

    Returns:
        By the sites' names, [units].
    """
    totals: dict[str, Tensor] = {}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        gates = open_gates(sites, len(batch))
        with torch.enable_grad(), gated(sites, gates):
            by_row = losses(learner, batch)
        gradients = torch.autograd.grad(by_row.sum(), list(gates.values()))
        for name, gradient in zip(gates, gradients, strict=True):
            total = gradient.abs().sum(0)
            totals[name] = totals[name] + total if name in totals else total
    return {name: total / len(rows) for name, total in totals.items()}


def proxy_losses(learner: LearnerView, rows: Sequence[Encoded]) -> Tensor:
    """How far two passes with dropout diverge, in their last layer's states."""
    one, counted = last_states(learner.host, rows)
    other, _ = last_states(learner.host, rows)
    return state_divergence(one.to(_wide(one)), other.to(_wide(other)), counted)


def task_losses(learner: LearnerView, rows: Sequence[Encoded]) -> Tensor:
    """Each row's mean task loss over its target tokens."""
    logits, labels = learner.predictions(rows)
    sizes = torch.tensor([row.num_target_tokens for row in rows])
    places = target_places(labels, int(sizes.sum()))
    owner = torch.arange(len(rows)).repeat_interleave(sizes).to(logits.device)
    target = logits.flatten(0, -2)[places]
    losses = F.cross_entropy(target.to(_wide(target)), labels.flatten()[places], reduction="none")
    return losses.new_zeros(len(rows)).index_add(0, owner, losses) / sizes.to(losses)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
