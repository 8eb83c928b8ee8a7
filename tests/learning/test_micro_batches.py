"""Micro-batches of rows of like length: the cheapest split, and the same step whatever the split."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.contract import VARIANTS, tensors_in
from helpers.tiny import tiny_host, tiny_task
from helpers.together import BY_MICRO_BATCH, UNSTEADY, without_dropout
from nacre.events import Event, StepTaken, ignore
from nacre.learning.batches import in_micro_batches
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.registry import build_method
from nacre.tasks.task import SPLITS, Row, Task

ARCHITECTURES = ("t5", "llama", "roberta")


def rows_of(lengths: list[int]) -> list[Encoded]:
    return [Encoded((7,) * (length - 1), (1,), False) for length in lengths]


def cost(parts: list[list[int]], worth: int) -> int:
    """Padded tokens, and what the micro-batches themselves are counted as."""
    return sum(worth + len(part) * max(part) for part in parts)


def cheapest(lengths: list[int], worth: int) -> int:
    """Over all ways to cut the sorted rows."""
    ordered = sorted(lengths)
    costs = []
    for number in range(len(ordered)):
        for cuts in combinations(range(1, len(ordered)), number):
            bounds = [0, *cuts, len(ordered)]
            parts = [ordered[start:end] for start, end in pairwise(bounds)]
            costs.append(cost(parts, worth))
    return min(costs)


@given(st.lists(st.integers(2, 90), min_size=1, max_size=9), st.integers(0, 300))
def test_no_split_of_the_sorted_rows_is_cheaper(lengths: list[int], worth: int) -> None:
    parts = in_micro_batches(rows_of(lengths), 1, worth)
    found = [[row.length() for row in part] for part in parts]
    assert sorted(lengths) == [length for part in found for length in part], (
        "no row is lost, twice there or out of order"
    )
    assert cost(found, worth) == cheapest(lengths, worth)


def test_at_least_as_many_as_the_memory_needs() -> None:
    rows = rows_of([10] * 8)
    assert [len(part) for part in in_micro_batches(rows, 4, 10**6)] == [2, 2, 2, 2]
    assert [len(part) for part in in_micro_batches(rows, 1, 0)] == [8], "rows of one length stay together"
    assert [len(part) for part in in_micro_batches(rows_of([9, 30, 9, 30]), 1, None)] == [4]
    assert [len(part) for part in in_micro_batches(rows_of([9, 30, 9, 30]), 1, 0)] == [2, 2]


def uneven_task() -> Task:
    """Texts of two to thirty words."""
    task = tiny_task(rows=8)
    rows = tuple(
        Row(f"the {'big ' * (4 * number)}{row.text.split()[2]}", row.target) for number, row in enumerate(task.train)
    )
    return replace(task, train=rows)


def gradients(architecture: str, method: str, optim: Optim) -> tuple[dict[str, torch.Tensor], Learner]:
    """Of a task's first and only step, in float64."""
    host = tiny_host(architecture, torch.float64)
    parameters = {} if method == "seq_ft" else {"dropout": 0.0}
    learner = Learner(host, build_method(method, parameters), optim=optim)
    found: dict[str, torch.Tensor] = {}

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):  # before zero_grad
            found.update({name: p.grad.clone() for name, p in host.model.named_parameters() if p.grad is not None})

    learner.on_event = watch
    learner.learn(uneven_task())
    learner.remove()
    return found, learner


@pytest.mark.parametrize("method", ["seq_ft", "am_lora", "seq_lora+migu"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_step_is_the_same_and_pads_less(architecture: str, method: str) -> None:
    def optim(split_padding: int | None) -> Optim:
        room = {"max_target_length": 4}  # in 64 positions, for texts of different length
        return Optim(batch_size=64, max_grad_norm=None, log_every=1, split_padding=split_padding, **room)

    whole, one = gradients(architecture, method, optim(None))
    parts, several = gradients(architecture, method, optim(0))
    assert one.work.tokens == several.work.tokens
    assert one.work.positions > several.work.positions >= several.work.tokens
    norm = torch.stack([tensor.norm() for tensor in whole.values()]).norm()
    difference = torch.stack([(tensor - parts[name]).norm() for name, tensor in whole.items()]).norm()
    assert norm > 0
    assert difference <= 1e-12 * norm


def of_two_lengths(task: Task) -> Task:
    """The same with "no one two three" for "no"."""
    words = {"yes": "yes", "no": "no one two three"}
    splits = {split: tuple(replace(row, target=words[row.target]) for row in task.rows(split)) for split in SPLITS}
    return replace(task, labels=tuple(words.values()), **splits)


def split_in(parts: int, variant: str) -> dict[str, torch.Tensor]:
    """What a variant has learned of two tasks, in float64, each step of 6 rows split into so many micro-batches."""
    optim = Optim(batch_size=6, accumulation=parts, split_padding=None, learning_rate=1e-3, max_target_length=8)
    host = tiny_host("t5", torch.float64)
    learner = Learner(host, without_dropout(variant), seed=2, optim=optim, on_event=ignore)
    tasks = [of_two_lengths(tiny_task(name)) for name in ("animals", "birds")]
    for stage in learner.method.curriculum.stages(tasks):
        if stage.afresh and learner.state.tasks:
            learner = learner.restart()
        learner.learn(*stage.tasks)
    found = learner.snapshot()
    tensors = {name: dict(owner.tensors) for name, owner in found.owners.items()} | {"parts": dict(found.parts)}
    copies = {name: tensor.clone() for name, tensor in tensors_in(tensors, "")}
    learner.remove()
    return copies


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in (*UNSTEADY, *BY_MICRO_BATCH)])
def test_how_a_step_is_split_changes_nothing(variant: str) -> None:
    """Answers have one word or four, so that micro-batches of as many rows have other numbers of tokens."""
    whole, parts = split_in(1, variant), split_in(3, variant)
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        apart = (tensor.double() - parts[name].double()).abs()
        assert not tensor.numel() or apart.max() <= 1e-6 * max(1.0, float(tensor.abs().max())), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_inputs_are_as_wide_as_a_multiple_of_8_but_never_wider_than_the_positions(architecture: str) -> None:
    host = tiny_host(architecture)
    assert host.family.width([[1] * 3, [1] * 11]) == 16
    assert host.family.width([[1] * 11, [2] * 11]) == 11, "rows of one length need no padding"
    Learner(host, build_method("seq_lora"), optim=Optim(pad_to_multiple_of=1)).remove()
    assert host.family.width([[1] * 3, [1] * 11]) == 11
    host.family.multiple = 8
    if architecture != "t5":  # which has no positions
        host.model.config.max_position_embeddings = 61
        assert [host.family.width([[1], [1] * length]) for length in (55, 58, 61)] == [56, 61, 61]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_counted_without_padding(architecture: str) -> None:
    host = tiny_host(architecture)
    rows = [Encoded((3, 4, 5), (0,), False), Encoded((3, 4, 5, 6, 7, 8, 9, 10, 11), (0,), False)]
    read = 3 + 9
    expected = {"t5": (read + 2, 2 * 16 + 2), "llama": (read + 2, 2 * 16), "roberta": (read, 2 * 16)}[architecture]
    assert host.family.size(host.family.batch(rows)) == expected
