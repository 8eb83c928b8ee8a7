"""Methods written on the parts' interfaces alone, to prove that they suffice: routing by Gaussians as in EPI, and
progressive prompts. They are no baselines: no paper's settings are checked here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.low_rank import LowRank
from nacre.adapters.prompt import Prompt
from nacre.adapters.route import Route
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import LearnerView, Reading, Routing
from nacre.tasks.task import Task


@dataclass(frozen=True)
class Gaussians:
    """The tasks' mean states, and what all of them share: the summed scatter [d, d] around the means, and the rows."""

    means: dict[str, Tensor]
    scatter: Tensor
    rows: int


MEAN_OF_LAST = PooledStates()


@dataclass(frozen=True)
class NearestGaussian(Routing):
    """Each task has a slot of its own; a row goes to the slot of the task whose Gaussian it is nearest to, by the
    Mahalanobis distance under one shared covariance, of the bare host's pooled states (EPI)."""

    State: ClassVar[type[Gaussians]] = Gaussians

    states: PooledStates = MEAN_OF_LAST
    batch_size: int = 4

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, LowRank) and adapter.slots == "per_task":
            return None
        return "it chooses among one LoRA for each task; inc_lora has them"

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        before = learner.remembered(self, Gaussians)
        for task in tasks:
            rows = learner.encode(task.examples("train"))
            read = [
                learner.pooled_states(rows[start : start + self.batch_size], self.states).double()
                for start in range(0, len(rows), self.batch_size)
            ]
            states = torch.cat(read)
            away = states - states.mean(0)
            scatter = away.T @ away
            if before is not None:
                scatter = scatter + before.scatter
            means = {**(before.means if before else {}), task.name: states.mean(0)}
            before = Gaussians(means, scatter, len(rows) + (before.rows if before else 0))
        learner.remember(self, before)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        known = learner.remembered(self, Gaussians)
        slots = learner.adapter.tasks
        if slots == 0:
            return None
        if all(reading.tasks):  # in training the slot is that of the row's own task
            names = learner.state.tasks
            chosen = torch.tensor([names.index(task) if task in names else slots - 1 for task in reading.tasks])
        elif known is None:
            return None
        else:
            chosen = self.nearest(known, reading.query(self.states).double())
        return Route(slots=chosen)

    def nearest(self, known: Gaussians, states: Tensor) -> Tensor:
        covariance = known.scatter / known.rows
        precision = torch.linalg.pinv(covariance, hermitian=True, rtol=1e-6)
        away = states[:, None] - torch.stack(list(known.means.values()))  # [B, t, d]
        return (away @ precision * away).sum(-1).argmin(-1)


def epi_like() -> Method:
    """A LoRA a task, and the task told by Gaussians: no task identity at test."""
    return replace(inc_lora(), name="", title="EPI-like").with_routing(NearestGaussian())


def progressive_prompts(*, tokens: int = 3) -> Method:
    """A prompt a task, in front of those of the tasks before it; the task is given at test."""
    adapter = Prompt(tokens=tokens, slots="per_task", concatenate=True)
    return Method(title="Progressive Prompts", sources=(), adapter=adapter)


PROOFS: dict[str, Callable[[], Method]] = {
    "epi_like": epi_like,
    "progressive_prompts": progressive_prompts,
}
