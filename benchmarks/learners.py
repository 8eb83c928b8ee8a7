"""Learners as they are while task N + 1 is learnt, without having learnt the N tasks before: their slots are filled
with small random numbers, because a step costs the same whatever they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from nacre.adapters.slotted import SlottedSite
from nacre.learning.batches import Batches
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.learning.trainer import Training
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.registry import build_method


def learner_with(host: Host, method: str, past: int, optim: Optim, **parameters: Any) -> Learner:
    """A learner that stands at the start of task ``past`` + 1, with the slot of that task open."""
    settings = parameters if method.startswith("seq_ft") else {"dropout": 0.0, "rank": 8, **parameters}
    learner = Learner(host, build_method(method, settings), optim=optim)
    for task in range(past + 1):
        learner.adapter.grow()
        fill(learner, seed=task)
    return learner


@torch.no_grad()
def fill(learner: Learner, seed: int) -> None:
    """Put random numbers where the newest task would have been learnt."""
    learner.adapter.fresh(seed)
    generator = torch.Generator().manual_seed(seed)
    for site in learner.host.model.modules():
        if isinstance(site, SlottedSite):
            for name, parameter in site.parameters_by_group().items():
                if name != "selector":
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def step_of(learner: Learner, rows: list[Encoded]) -> Callable[[], object]:
    """The real training step, on the same rows each time."""
    for part in learner.method.parts:
        part.begin(learner, [])
    batches = Batches(rows, seed=0, where="bench", batch_size=len(rows), epochs=100_000)
    accelerator = Accelerator(mixed_precision=learner.optim.mixed_precision, cpu=learner.host.device.type == "cpu")
    training = Training(learner, batches, learner.optim, accelerator)
    steps = iter(range(batches.steps))
    return lambda: training.take(next(steps))
