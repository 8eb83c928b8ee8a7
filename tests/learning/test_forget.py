"""A task is taken out again: nothing of it is left, and the others keep their bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import DataError, ModelError, TrainingError
from nacre.evaluation.settings import Decoding
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [
    tiny_task("animals", rows=24),
    tiny_task("birds", rows=17, labels=("red", "green")),
    tiny_task("fish", rows=20, labels=("maybe", "no", "blue")),
]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(name: str, architecture: str, **settings: object) -> Learner:
    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    learner = Learner(
        tiny_host(architecture, torch.float64),
        build_method(name, settings),
        seed=4,
        optim=OPTIM,
        decoding=Decoding(decode="labels"),
        on_event=watch,
    )
    for task in TASKS:
        learner.learn(task)
    return learner


@pytest.mark.parametrize("name", ["nacre", "inc_lora+gaussian_routing"])
@pytest.mark.parametrize("task", ["animals", "birds", "fish"])
def test_the_others_keep_their_bits_and_nothing_of_the_task_is_left(
    architecture: str, task: str, name: str, tmp_path: Path
) -> None:
    learner = learned(name, architecture)
    number = [each.name for each in TASKS].index(task)
    sums = {own.task: own for own in learner.state.parts["evidence"].tasks}
    before = {key: tensor.clone() for key, tensor in learner.adapter.tensors().items()}
    learner.forget(task)
    assert learner.state.tasks == [each.name for each in TASKS if each.name != task]
    assert task not in learner.state.forms
    assert learner.adapter.tasks == 2
    kept = [each for each in range(3) if each != number]
    for site in {key.rpartition(".past_down")[0] for key in before if key.endswith(".past_down")}:
        for group in ("down", "up"):
            last = before[f"{site}.{group}.weight"]
            stack = torch.cat([before[f"{site}.past_{group}"], (last if group == "down" else last.T).unsqueeze(0)])
            now = learner.adapter.tensors()
            newest = now[f"{site}.{group}.weight"]
            there = torch.cat([now[f"{site}.past_{group}"], (newest if group == "down" else newest.T).unsqueeze(0)])
            assert torch.equal(there, stack[kept])
    left = learner.state.parts["evidence"].tasks
    assert [own.task for own in left] == sorted(set(sums) - {task})
    assert all(own is sums[own.task] for own in left)
    if learner.host.family.head is not None:
        assert set(learner.host.family.head.labels.classes) == {
            label for each in TASKS if each.name != task for label in each.labels or ()
        }
    rest = [each for each in TASKS if each.name != task]
    answers = learner.answer(rest)
    learner.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved", tiny_host(architecture, torch.float64))
    assert again.answer(rest) == answers


def test_what_is_left_answers_as_a_learner_with_these_slots_and_sums(architecture: str) -> None:
    """Answers of the other tasks are those of before, where rows went to their own tasks' slots."""
    learner = learned("inc_lora+gaussian_routing", architecture)
    before = learner.answer([TASKS[0], TASKS[2]])
    learner.forget("birds")
    assert learner.answer([TASKS[0], TASKS[2]]) == before


def test_a_forgotten_task_can_be_learned_again_and_the_last_one_leaves_the_bare_host(architecture: str) -> None:
    learner = learned("nacre", architecture)
    learner.forget("fish")
    learner.learn(TASKS[2])
    assert learner.state.tasks == ["animals", "birds", "fish"]
    for task in TASKS:
        learner.forget(task.name)
    assert learner.state.tasks == []
    assert learner.adapter.tasks == 0
    assert learner.answer([TASKS[0]])[0] == [""] * 6, "nothing is known"
    if architecture != "roberta":
        bare = Learner(tiny_host(architecture, torch.float64), build_method("seq_lora"), optim=OPTIM)
        assert learner.predict(["the dog sees"]) == bare.predict(["the dog sees"])
    learner.learn(TASKS[0])
    assert len(learner.answer([TASKS[0]])[0]) == 6


def test_a_task_learned_twice_is_forgotten_whole() -> None:
    learner = learned("inc_lora+gaussian_routing", "t5")
    learner.learn(TASKS[0], again=True)
    learner.forget("animals")
    assert learner.state.tasks == ["birds", "fish"]
    assert learner.adapter.tasks == 2


def test_where_tasks_do_not_lie_apart_none_can_be_taken_out() -> None:
    with pytest.raises(DataError, match=r"forget\('cats'\): no such task has been learned"):
        learned("nacre", "t5").forget("cats")
    for name in ("inc_lora", "seq_lora", "am_lora+gaussian_routing"):
        with pytest.raises(ModelError, match="none can be taken out"):
            learned(name, "t5").forget("birds")
    learner = learned("epi", "t5")
    with pytest.raises(TrainingError, match="nearest_class remembers is of all tasks together"):
        learner.forget("birds")
    assert learner.state.tasks == ["animals", "birds", "fish"]
    assert len(learner.answer([TASKS[1]])[0]) == 6, "nothing has happened"
