"""Numbers that are not finite end a task with an error, in whichever step they appear; nothing of it is kept."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task, write_task
from nacre.errors import TrainingError
from nacre.events import Event, RowsEncoded, Warned, ignore, only_warn
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_ft import seq_ft
from nacre.methods.seq_lora import seq_lora
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

STEPS = 4


def learner_whose_gradient_is(value: float, step: int, **optim: Any) -> Learner:
    """Of full fine-tuning over `STEPS` steps; the loss stays what it is."""
    calls = 0

    def spoil(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return gradient * value if calls == step else gradient

    def watch(event: Event) -> None:
        if isinstance(event, RowsEncoded):
            learner.host.model.get_parameter("encoder.final_layer_norm.weight").register_hook(spoil)

    settings = Optim(**{"batch_size": 4, "epochs": STEPS // 2, "learning_rate": 1e-3, **optim})
    learner = Learner(tiny_host("t5"), seq_ft(), optim=settings, on_event=watch)
    return learner


@pytest.mark.parametrize("clipped", [1.0, None])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_gradient_that_is_not_finite(step: int, value: float, clipped: float | None) -> None:
    learner = learner_whose_gradient_is(value, step, max_grad_norm=clipped)
    with pytest.raises(TrainingError, match="not finite") as caught:
        learner.learn(tiny_task(rows=8))
    if clipped is not None:
        assert str(caught.value).startswith(f"The gradient is not finite at step {step} of 'animals'")
    with pytest.raises(TrainingError, match="stopped halfway"):
        learner.snapshot()


def test_a_finite_gradient_is_left_alone() -> None:
    learner_whose_gradient_is(1.0, STEPS).learn(tiny_task(rows=8))


def test_a_run_keeps_nothing_of_a_task_that_diverged_in_its_last_step(tmp_path: Path, tiny_model: Any) -> None:
    write_task(tmp_path / "data", "animals", rows=8)
    recipe = Recipe(
        method="seq_lora",
        stream=["animals"],
        model=str(tiny_model("t5")),
        data=str(tmp_path / "data"),
        output=str(tmp_path / "run"),
        optim=Optim(batch_size=64, learning_rate=1e3, weight_decay=1e38),
    )
    with pytest.raises(TrainingError, match="'animals' ended with weights that are not finite"):
        run(recipe, ignore)
    assert [stage.name for stage in (tmp_path / "run" / "tasks").iterdir()] == ["00-before"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_warned_of_once(dtype: torch.dtype) -> None:
    events: list[Event] = []
    learner = Learner(tiny_host("t5", dtype), seq_ft(), on_event=events.append)
    for name in ("animals", "plants"):
        learner.learn(tiny_task(name))
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert str(dtype).removeprefix("torch.") in warning.text
    assert "optim.mixed_precision=bf16" in warning.text


def test_adapters_of_a_half_precision_host_are_not_warned_of() -> None:
    events: list[Event] = []
    for method in (seq_lora(), inc_lora()):
        Learner(tiny_host("t5", torch.bfloat16), method, on_event=events.append).learn(tiny_task())
    assert not [event for event in events if isinstance(event, Warned)]


def test_warnings_become_pythons_where_nobody_listens() -> None:
    with pytest.warns(UserWarning, match="bfloat16"):
        Learner(tiny_host("t5", torch.bfloat16), seq_ft()).learn(tiny_task())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        only_warn(RowsEncoded(rows=1, truncated=0, cut_targets=0))
