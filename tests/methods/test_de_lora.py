"""De-LoRA: scikit-learn's discriminant names the slot, whatever the order; a task alone is a plain LoRA."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import RecipeError
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.discriminant_routing import DiscriminantRouting
from nacre.registry import build_method
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [tiny_task(name, rows=24) for name in ("animals", "birds", "fish")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(name: str, architecture: str, tasks: list[Task], **settings: object) -> Learner:
    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    method = build_method(name, settings)
    learner = Learner(tiny_host(architecture, torch.float64), method, seed=4, optim=OPTIM, on_event=watch)
    for task in tasks:
        learner.learn(task)
    return learner


def router(learner: Learner) -> DiscriminantRouting:
    assert isinstance(learner.method.routing, DiscriminantRouting)
    return learner.method.routing


def test_a_row_goes_to_the_class_that_scikit_learn_predicts(architecture: str) -> None:
    learner = learned("de_lora", architecture, TASKS, shrinkage=0.1)
    part = router(learner)
    states = {
        split: learner.pooled_states(
            learner.encode([example for task in TASKS for example in task.examples(split)]), part.states
        ).double()
        for split in ("train", "test")
    }
    names = np.array([task.name for task in TASKS for _ in task.train])
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1, priors=[1 / 3] * 3)
    expected = fitted.fit(states["train"].numpy(), names).predict(states["test"].numpy()).tolist()
    known = learner.remembered(part, part.State)
    assert known is not None
    slots = part.answer(learner, known, states["test"]).slots
    assert slots is not None
    assert [TASKS[number].name for number in slots.tolist()] == expected
    assert set(expected) == {"animals", "birds", "fish"}


def test_the_same_bits_in_any_order_of_rows_and_tasks() -> None:
    drawn = random.Random(0)
    shuffled = [replace(task, train=tuple(drawn.sample(task.train, len(task.train)))) for task in reversed(TASKS)]
    one, other = (learned("de_lora", "t5", tasks) for tasks in (TASKS, shuffled))
    solved = [router(learner)._solved(learner, learner.state.parts["discriminant_routing"]) for learner in (one, other)]
    assert solved[0][0] == solved[1][0]
    for mine, theirs in zip(solved[0][1:], solved[1][1:], strict=True):
        assert torch.equal(mine, theirs)


def test_after_one_task_it_is_a_plain_lora_to_the_bit(architecture: str) -> None:
    routed, plain = (learned(name, architecture, TASKS[:1]) for name in ("de_lora", "inc_lora"))
    for name, tensor in plain.adapter.tensors().items():
        assert torch.equal(tensor, routed.adapter.tensors()[name])
    assert routed.answer(TASKS[:1]) == plain.answer(TASKS[:1])


def test_the_router_reads_so_many_rows_drawn_by_the_seed() -> None:
    learner = learned("de_lora", "t5", TASKS[:2], support=7)
    assert [mean.count for mean in learner.state.parts["discriminant_routing"].means] == [7, 7]
    again = learned("de_lora", "t5", TASKS[:2], support=7)
    for mine, theirs in zip(*(one.state.parts["discriminant_routing"].means for one in (learner, again)), strict=True):
        assert torch.equal(mine.mean, theirs.mean)
    with pytest.raises(RecipeError, match="support"):
        build_method("de_lora", {"support": 0})
    with pytest.raises(RecipeError, match="shrinkage: 2 is not in"):
        build_method("de_lora", {"shrinkage": 2.0})
