"""Replay: which rows are kept, that they are learnt with each later task, and when it vanishes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import RecipeError, SlotTaken
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.rehearsal import KeptTask, Rehearsal
from nacre.registry import build_method
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2)


def tasks() -> list[Task]:
    """Three tasks with prompts of their own; every row's text occurs once in its task."""
    made = []
    for name, option in (("animals", True), ("birds", False), ("fish", True)):
        task = tiny_task(name, rows=12)
        rows = tuple(replace(row, text=f"{row.text} {'two ' * place}") for place, row in enumerate(task.train))
        made.append(replace(task, train=rows, template=replace(task.template, options=option)))
    return made


TASKS = tasks()


def learnt(name: str, portions: list[Task], architecture: str = "t5", seed: int = 7, **parameters: Any) -> Learner:
    learner = Learner(tiny_host(architecture), build_method(name, parameters), seed=seed, optim=OPTIM)
    for task in portions:
        learner.learn(task)
    return learner


def tensors(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def kept(learner: Learner) -> list[KeptTask]:
    return learner.state.parts["rehearsal"].kept


@pytest.mark.parametrize(
    ("rows", "size"),
    # MIGU's released files: dbpedia, yahoo, amazon, agnews, mnli, qqp, copa, cb.
    [(14000, 280), (10000, 200), (5000, 100), (4000, 80), (3000, 60), (2000, 40), (400, 8), (250, 5), (49, 1), (1, 1)],
)
def test_two_percent_of_the_benchmarks_tasks(rows: int, size: int) -> None:
    assert Rehearsal().size(rows) == size


def test_sizes_are_exact_whole_numbers() -> None:
    assert Rehearsal(0.29).size(100) == 29  # 0.29 * 100 = 28.999999999999996 in floating point
    assert Rehearsal(0.999).size(1000) == 999
    assert Rehearsal(1e-9).size(1000) == 1
    assert Rehearsal(1.0).size(13) == 13
    assert Rehearsal(0.0).size(1000) == 0
    assert Rehearsal(0.5, per_task=3).size(1000) == 3
    assert Rehearsal(per_task=30).size(7) == 7
    assert Rehearsal(per_task=0).size(7) == 0


def test_kept_rows_are_rows_of_the_task_each_at_most_once() -> None:
    learner = learnt("lora_replay", TASKS, per_task=5)
    assert [task.task for task in kept(learner)] == ["animals", "birds", "fish"]
    for task, entry in zip(TASKS, kept(learner), strict=True):
        assert len(set(entry.rows)) == 5
        examples = task.examples("train")
        own = [examples[row] for row in entry.rows]
        assert entry.examples == [[e.before, e.text, e.after, e.target] for e in own]
    given = learner.method.memory.examples(learner, [])
    assert [e.text for e in given] == [texts[1] for entry in kept(learner) for texts in entry.examples]


def test_which_rows_depends_on_seed_and_task_alone() -> None:
    chosen = {seed: [task.rows for task in kept(learnt("seq_lora+replay", TASKS, seed=seed))] for seed in range(3)}
    assert chosen[0] == [task.rows for task in kept(learnt("replay", TASKS, "llama", seed=0))]
    many = [task.rows for task in kept(learnt("lora_replay", TASKS, seed=0, per_task=4))]
    again = [task.rows for task in kept(learnt("replay", TASKS, seed=0, per_task=4))]
    assert many == again
    assert many[0] != many[1] or many[1] != many[2]
    assert len({str(rows) for rows in chosen.values()}) > 1


@pytest.mark.parametrize(("name", "base"), [("replay", "seq_ft"), ("lora_replay", "seq_lora")])
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_keeping_nothing_and_the_first_task_are_the_base_bit_for_bit(name: str, base: str, architecture: str) -> None:
    for nothing in ({"fraction": 0.0}, {"per_task": 0}):
        assert equal(
            tensors(learnt(name, TASKS[:2], architecture, **nothing)), tensors(learnt(base, TASKS[:2], architecture))
        )
    first = tensors(learnt(name, TASKS[:1], architecture, fraction=0.5))
    assert equal(first, tensors(learnt(base, TASKS[:1], architecture)))


@pytest.mark.parametrize("name", ["seq_ft", "seq_lora", "inc_lora", "am_lora"])
def test_it_is_learning_the_union(name: str) -> None:
    """Task 3 with replay equals, to the bit, the base method on a task 3 that has the kept rows among its own."""
    same_prompt = [replace(task, template=TASKS[0].template) for task in TASKS]
    replayed = learnt(f"{name}+replay", same_prompt, replay={"fraction": 0.3})
    rows: list[tuple] = []
    union = []
    for task, entry in zip(same_prompt, kept(replayed), strict=True):
        union.append(replace(task, train=(*task.train, *rows)))
        rows += [task.train[row] for row in entry.rows]
    assert [len(task.train) for task in union] == [12, 15, 18]
    assert equal(tensors(replayed), tensors(learnt(name, union)))
    assert not equal(tensors(replayed), tensors(learnt(name, same_prompt)))


def test_every_kept_row_is_in_every_later_epoch_once_in_its_own_prompt() -> None:
    seen: list[list[str]] = []
    learner = Learner(tiny_host("t5"), build_method("lora_replay", {"per_task": 2}), optim=OPTIM)
    encode = learner.encode

    def watched(examples: Any) -> Any:
        seen.append([example.input for example in examples])
        return encode(examples)

    learner.encode = watched  # type: ignore[method-assign]
    for task in TASKS:
        learner.learn(task)
    for number, inputs in enumerate(seen):
        expected = [example.input for example in TASKS[number].examples("train")]
        for earlier in range(number):
            own = TASKS[earlier].examples("train")
            expected += [own[row].input for row in kept(learner)[earlier].rows]
        assert Counter(inputs) == Counter(expected)
        assert len(inputs) == 12 + 2 * number


def test_saved_and_loaded_it_keeps_the_same_rows_and_goes_on_the_same(tmp_path: Path) -> None:
    learner = learnt("lora_replay", TASKS[:2], fraction=0.3)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"))
    assert loaded.state == learner.state
    for each in (loaded, learner):
        each.learn(TASKS[2])
    assert equal(tensors(loaded), tensors(learner))
    assert loaded.state == learner.state
    assert [len(task.rows) for task in kept(loaded)] == [3, 3, 3]


def test_methods_and_modifier_agree_and_are_not_rehearsal_free() -> None:
    for name, base in [("replay", "seq_ft"), ("lora_replay", "seq_lora")]:
        own, added = build_method(name), build_method(f"{base}+replay")
        assert own.memory == added.memory == Rehearsal(0.02)
        assert own.adapter == added.adapter
        assert not own.traits["rehearsal-free"]


@pytest.mark.parametrize("name", ["joint+replay", "independent+replay"])
def test_methods_that_never_go_on_have_nothing_to_replay(name: str) -> None:
    with pytest.raises(
        RecipeError, match=r"nothing to bring back in (joint|independent), where no task is learned on top"
    ):
        build_method(name)


def test_a_second_memory_is_refused() -> None:
    with pytest.raises(SlotTaken, match="lora_replay already has a memory"):
        build_method("lora_replay+replay")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"fraction": 1.5}, r"fraction: 1.5 is not in \[0, 1\]"),
        ({"fraction": -0.1}, r"fraction: -0.1 is not in \[0, 1\]"),
        ({"per_task": -1}, "per_task: -1 is not a number of rows"),
    ],
)
def test_sizes_out_of_range_are_named(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        build_method("replay", parameters)
