"""Saved tensors are compared with what they go into: nothing is broadcast, converted, left over or made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import CheckpointError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.learning.snapshot import OwnerState, Snapshot
from nacre.registry import build_method

Tensors = dict[str, Tensor]

METHODS = ("seq_lora", "inc_lora", "am_lora", "lb_cl", "seq_ft")
SETTINGS: dict[str, dict[str, Any]] = {"am_lora": {"zero_lora": "learned"}}
SMALL = {"rank": 2}


def learner_of(method: str, architecture: str) -> Learner:
    parameters = {**({} if method == "seq_ft" else SMALL), **SETTINGS.get(method, {})}
    return Learner(tiny_host(architecture), build_method(method, parameters), optim=Optim(batch_size=8))


@pytest.fixture(scope="module")
def snapshots() -> Callable[[str, str], Snapshot]:
    made: dict[tuple[str, str], Snapshot] = {}

    def snapshot(method: str, architecture: str) -> Snapshot:
        if (method, architecture) not in made:
            learner = learner_of(method, architecture)
            for name in ("animals", "plants"):
                learner.learn(tiny_task(name))
            made[method, architecture] = learner.snapshot()
        return made[method, architecture]

    return snapshot


def first(tensors: Tensors) -> str:
    """A tensor of more than one number."""
    return next(name for name, tensor in tensors.items() if tensor.numel() > 1)


def without(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != first(tensors)}


def instead(make: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, first(tensors): make(tensors[first(tensors)])}


def spoiled(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return spoil


CHANGES: dict[str, Callable[[Tensors], Tensors]] = {
    "missing": without,
    "none at all": lambda tensors: {},
    "one more": lambda tensors: {**tensors, "more": torch.zeros(1)},
    "another name": lambda tensors: {**without(tensors), "other": tensors[first(tensors)]},
    "one number": instead(lambda tensor: torch.zeros((1,) * tensor.dim())),
    "a number without a shape": instead(lambda tensor: torch.zeros(())),
    "one row more": instead(lambda tensor: torch.cat([tensor, tensor[:1]])),
    "turned": instead(lambda tensor: tensor.T.contiguous() if tensor.dim() == 2 else tensor.unsqueeze(0)),
    "half precision": instead(lambda tensor: tensor.half()),
    "double precision": instead(lambda tensor: tensor.double()),
    "whole numbers": instead(lambda tensor: tensor.long()),
    "NaN": instead(spoiled(math.nan)),
    "infinite": instead(spoiled(math.inf)),
}


def with_owner(snapshot: Snapshot, name: str, owner: OwnerState) -> Snapshot:
    return replace(snapshot, owners={**snapshot.owners, name: owner})


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("method", "owner"), [*((method, "adapter") for method in METHODS), ("inc_lora", "head")])
def test_tensors_that_do_not_fit(
    snapshots: Callable[[str, str], Snapshot], method: str, owner: str, change: str
) -> None:
    architecture = "roberta" if owner == "head" else "t5"
    whole = snapshots(method, architecture)
    saved = whole.owners[owner]
    spoiled = with_owner(whole, owner, OwnerState(CHANGES[change](dict(saved.tensors)), saved.values))
    learner = learner_of(method, architecture)
    before = learner.host.fingerprint
    with pytest.raises(CheckpointError) as caught:
        learner.restore(spoiled)
    assert str(caught.value).startswith(f"The saved {owner} does not fit this model and method: '")
    assert "\n" not in str(caught.value)
    assert learner.host.fingerprint == before
    learner.remove()


VALUES: dict[str, tuple[str, dict[str, Any]]] = {
    "a slot more": ("adapter", {"slots": 3}),
    "a slot less": ("adapter", {"slots": 1}),
    "no slot": ("adapter", {"slots": 0}),
    "slots below none": ("adapter", {"slots": -1}),
    "slots as text": ("adapter", {"slots": "2"}),
    "slots as truth": ("adapter", {"slots": True}),
    "a class less": ("head", {"classes": ["yes"], "newest": [0]}),
    "no classes": ("head", {}),
    "a class that is no text": ("head", {"classes": ["yes", 1], "newest": [0]}),
    "a row that is not there": ("head", {"classes": ["yes", "no"], "newest": [2]}),
    "a row below the first": ("head", {"classes": ["yes", "no"], "newest": [-1]}),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_do_not_agree_with_the_tensors(snapshots: Callable[[str, str], Snapshot], kind: str) -> None:
    owner, values = VALUES[kind]
    whole = snapshots("inc_lora", "roberta")
    learner = learner_of("inc_lora", "roberta")
    with pytest.raises(CheckpointError, match=f"^The saved {owner} "):
        learner.restore(with_owner(whole, owner, OwnerState(whole.owners[owner].tensors, values)))


@pytest.mark.parametrize(("method", "architecture"), [*((method, "t5") for method in METHODS), ("inc_lora", "roberta")])
def test_what_fits_is_taken_bit_for_bit(
    snapshots: Callable[[str, str], Snapshot], tmp_path: Path, method: str, architecture: str
) -> None:
    whole = snapshots(method, architecture)
    learner = learner_of(method, architecture)
    learner.restore(whole)
    assert learner.snapshot().differences(whole) == []
    learner.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "state.json").read_text())["tasks"] == ["animals", "plants"]
