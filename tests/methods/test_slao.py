"""SLAO: what is trained, what answers, that neither grows, and that a learner of one task is a LoRA."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contract import state_of
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import RecipeError
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_lora import seq_lora
from nacre.methods.slao import slao
from nacre.parts.averaged_lora import AveragedLora, Trained
from nacre.parts.part import LearnerView
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish", "worms")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learner_of(architecture: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Learner:
    return Learner(tiny_host(architecture, dtype), slao(**settings), seed=7, optim=OPTIM)


def trained_of(learner: Learner) -> dict[str, Tensor]:
    known = learner.remembered(learner.method.start, Trained)
    assert known is not None
    return known.ups


def test_starts_and_averages_are_those_of_the_algorithm(architecture: str) -> None:
    """Followed from outside, with numpy-free float64 products of what is seen at the start and at the end."""
    learner = learner_of(architecture, rank=2)
    started: dict[str, Tensor] = {}
    learner.on_event = lambda event: (
        started.update({name: tensor.clone() for name, tensor in learner.adapter.tensors().items()})
        if isinstance(event, TrainingPrepared)
        else None
    )
    learner.learn(TASKS[0])
    answers = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    sites = [name.removesuffix(".up.weight") for name in answers if name.endswith(".up.weight")]
    for name in sites:
        assert torch.equal(trained_of(learner)[name].T, answers[f"{name}.up.weight"]), "the first B answers as trained"
    for number in (2, 3, 4):
        last = {name: tensor.T.clone() for name, tensor in trained_of(learner).items()}
        learner.learn(TASKS[number - 1])
        now = learner.adapter.tensors()
        for name in sites:
            down = started[f"{name}.down.weight"]
            torch.testing.assert_close(down @ down.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
            before = answers[f"{name}.down.weight"]
            torch.testing.assert_close(before @ down.T @ down, before, rtol=0, atol=1e-12)  # one row space
            assert torch.equal(started[f"{name}.up.weight"], last[name]), "B begins as it was trained"
            served, new = answers[f"{name}.up.weight"], trained_of(learner)[name].T
            assert not torch.equal(new, last[name])
            expected = served + (new - served) / math.sqrt(number)
            torch.testing.assert_close(now[f"{name}.up.weight"], expected, rtol=0, atol=1e-14)
        answers = {name: tensor.clone() for name, tensor in now.items()}


def test_one_task_is_a_lora_to_the_bit(architecture: str) -> None:
    found = []
    for method in (slao(), seq_lora(alpha=16.0)):
        learner = Learner(tiny_host(architecture), method, seed=7, optim=OPTIM)
        learner.learn(TASKS[0])
        found.append((state_of(learner), learner.answer(TASKS[:1])))
    assert found[0][0].keys() == found[1][0].keys()
    assert all(torch.equal(tensor, found[1][0][name]) for name, tensor in found[0][0].items())
    assert found[0][1] == found[1][1]


def test_answers_the_merged_model_and_a_loaded_one_have_the_average(architecture: str, tmp_path: Path) -> None:
    """The one weight of the merged model is W + s B_m A_m, and what answers computes with it."""
    learner = learner_of(architecture, rank=2)
    for task in TASKS[:3]:
        learner.learn(task)
    pristine = {name: tensor.clone() for name, tensor in learner.adapter.pristine().items()}
    merged = learner.merged().state_dict()
    for name, up in trained_of(learner).items():
        tensors = learner.adapter.tensors()
        expected = pristine[f"{name}.weight"] + 8 * tensors[f"{name}.up.weight"] @ tensors[f"{name}.down.weight"]
        torch.testing.assert_close(merged[f"{name}.weight"], expected, rtol=0, atol=1e-12)
        assert not torch.equal(up.T, tensors[f"{name}.up.weight"])
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture, torch.float64))
    assert loaded.answer(TASKS[:3]) == learner.answer(TASKS[:3])
    for each in (learner, loaded):
        each.learn(TASKS[3])
    assert all(torch.equal(tensor, state_of(loaded)[name]) for name, tensor in state_of(learner).items())
    assert all(torch.equal(tensor, trained_of(loaded)[name]) for name, tensor in trained_of(learner).items())


def test_before_a_task_others_find_what_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part's `prepare` sees the average; training does not begin from it."""
    learner = learner_of("t5", rank=2)
    for task in TASKS[:2]:
        learner.learn(task)
    answers = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    seen: list[bool] = []

    def prepare(self: AveragedLora, view: LearnerView, tasks: object) -> None:
        seen.append(all(torch.equal(tensor, answers[name]) for name, tensor in view.adapter.tensors().items()))

    monkeypatch.setattr(AveragedLora, "prepare", prepare)
    learner.on_event = lambda event: watch(event)

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            seen.append(all(torch.equal(tensor, answers[name]) for name, tensor in learner.adapter.tensors().items()))

    learner.learn(TASKS[2])
    assert seen == [True, False]


def test_what_is_kept_does_not_grow() -> None:
    learner = learner_of("t5")
    sizes = []
    for task in TASKS:
        learner.learn(task)
        sizes.append((learner.stored_parameters(), sum(tensor.numel() for tensor in trained_of(learner).values())))
    assert len(set(sizes)) == 1
    assert not learner.traits["grows with tasks"]
    assert learner.traits["foldable"]


def test_a_power_of_zero_keeps_the_last_b(architecture: str) -> None:
    learner = learner_of(architecture, power=0.0)
    for task in TASKS[:2]:
        learner.learn(task)
    tensors = learner.adapter.tensors()
    for name, up in trained_of(learner).items():
        torch.testing.assert_close(tensors[f"{name}.up.weight"], up.T, rtol=0, atol=1e-15)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="17 orthonormal rows were asked for"):
        learner_of("t5", rank=17).learn(TASKS[0])
    with pytest.raises(RecipeError, match=r"power: 1\.5 is not in"):
        slao(power=1.5)
    for name in ("inc_lora", "seq_ft"):
        with pytest.raises(RecipeError, match="it averages one LoRA over the tasks"):
            build_method(name).with_start(AveragedLora())
