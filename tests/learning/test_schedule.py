"""The rate of every step: closed forms, transformers' own schedules, and what the trainer makes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from helpers.tiny import tiny_host, tiny_task
from nacre.events import Event, StepTaken
from nacre.learning.learner import Learner
from nacre.learning.schedule import Schedule, rate_factor
from nacre.learning.settings import Optim
from nacre.methods.inc_lora import inc_lora

THEIRS = {
    "constant": lambda optimizer, warm, steps: get_constant_schedule_with_warmup(optimizer, warm),
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
}


@pytest.mark.parametrize("schedule", list(THEIRS))
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_as_transformers_has_it(schedule: Schedule, warmup: float, steps: int) -> None:
    rising = math.ceil(warmup * steps)
    after, during = rates_of_theirs(schedule, rising, steps), rates_of_theirs("constant", rising, steps)
    for step in range(steps):
        expected = during[step + 1] if step < rising else after[step]  # they begin to rise one step earlier, at 0
        assert rate_factor(schedule, step, steps, warmup=warmup) == pytest.approx(expected, abs=1e-12)


def rates_of_theirs(schedule: Schedule, rising: int, steps: int) -> list[float]:
    """transformers' rates at steps 0 to `steps`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = THEIRS[schedule](optimizer, rising, steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    return rates


@pytest.mark.parametrize("schedule", list(THEIRS))
@pytest.mark.parametrize("warmup", [0.0, 0.001, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_no_step_has_rate_zero(schedule: Schedule, warmup: float, steps: int) -> None:
    assert min(rate_factor(schedule, step, steps, warmup=warmup) for step in range(steps)) > 0


def test_known_values() -> None:
    cosine = [rate_factor("cosine", step, 5, warmup=0.2) for step in range(5)]
    assert cosine == pytest.approx([1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2], abs=1e-12)
    assert [rate_factor("linear", step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [rate_factor("constant", step, 4, warmup=0.5) for step in range(4)] == [0.5, 1, 1, 1]


def learnt(**settings: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The rates of a task of 6 steps, and the tensors after it."""
    rates: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            rates.append(event.rate)

    optim = Optim(batch_size=4, epochs=2, learning_rate=1e-2, log_every=1, **settings)
    learner = Learner(tiny_host("t5"), inc_lora(rank=2), seed=1, optim=optim, on_event=watch)
    learner.learn(tiny_task())
    return rates, learner.adapter.tensors()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_trainer_takes_the_schedules_rates() -> None:
    rates, _ = learnt(schedule="cosine", warmup=0.3)  # 2 of the 6 steps, rounded up
    down = [(1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)]
    assert rates == pytest.approx([0.005, 0.01, *(0.01 * factor for factor in down)], abs=1e-12)


def test_a_task_of_one_step_learns_during_its_warm_up() -> None:
    learner = Learner(tiny_host("t5"), inc_lora(rank=2), optim=Optim(batch_size=16, warmup=0.03))
    learner.learn(tiny_task(rows=16))
    assert all(tensor.any() for name, tensor in learner.adapter.tensors().items() if name.endswith("up.weight"))


def test_the_usual_settings_change_nothing() -> None:
    rates, plain = learnt()
    assert rates == [0.01] * 6
    assert same(plain, learnt(betas=(0.9, 0.999), warmup=0.0, schedule="constant")[1])
    assert not same(plain, learnt(schedule="linear")[1])


def test_adamw_gets_the_betas(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[float, float]] = []

    class Watched(torch.optim.AdamW):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            given.append(settings["betas"])
            super().__init__(*arguments, **settings)

    plain = learnt()[1]
    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    other = learnt(betas=(0.9, 0.95))[1]
    assert given == [(0.9, 0.95)]
    assert not same(plain, other)
