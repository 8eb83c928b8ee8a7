"""ELLA in training: what is penalized, where it is nothing, and what it does to the next task's update."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contract import same_tensors, state_of
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import RecipeError
from nacre.functional.stacking import group_by_shape
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.ella import ella
from nacre.methods.inc_lora import inc_lora
from nacre.parts import past_energy
from nacre.parts.past_energy import PastEnergy
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


def learnt(method: Any, architecture: str = "t5", tasks: int = 2, optim: Optim = OPTIM) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=7, optim=optim)
    for task in TASKS[:tasks]:
        learner.learn(task)
    return learner


def naive(tensors: dict[str, Tensor], scale: float) -> float:
    """sum over sites of ||D * P||_F^2, from the public tensors."""
    total = 0.0
    for name in [name.removesuffix(".down.weight") for name in tensors if name.endswith(".down.weight")]:
        new = scale * tensors[f"{name}.up.weight"] @ tensors[f"{name}.down.weight"]
        pairs = zip(tensors[f"{name}.past_up"], tensors[f"{name}.past_down"], strict=True)
        old = sum((scale * up.T @ down for up, down in pairs), torch.zeros_like(new))
        total += math.fsum((n * o) ** 2 for n, o in zip(new.flatten().tolist(), old.flatten().tolist(), strict=True))
    return total


@pytest.mark.parametrize("form", ["by_size", "dense", "rank_space"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_the_penalty_is_that_of_the_public_tensors(architecture: str, form: Any) -> None:
    method = inc_lora(rank=2, alpha=3.0).with_penalty(PastEnergy(form=form))
    learner = Learner(tiny_host(architecture, torch.float64), method, optim=OPTIM)
    for seed in range(3):
        learner.adapter.grow()
        learner.adapter.fresh(seed)
        perturb(learner.host.model, seed)
    (penalty,) = method.penalties
    expected = naive(dict(learner.adapter.tensors()), 1.5)
    assert penalty.value(learner).item() == pytest.approx(expected, rel=1e-10)


def test_the_forms_train_alike() -> None:
    found = []
    for form in ("dense", "rank_space"):
        method = inc_lora(rank=2).with_penalty(PastEnergy(form=form))  # type: ignore[arg-type]
        learner = Learner(tiny_host("t5", torch.float64), method, seed=7, optim=OPTIM)
        for task in TASKS:
            learner.learn(task)
        found.append(state_of(learner))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=0, atol=1e-9)


def test_sites_of_one_shape_are_computed_side_by_side_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    def grouped(items: Any, shape: Any, device: torch.device) -> list[list[Any]]:
        found = group_by_shape(items, shape, torch.device("cuda"))
        groups.extend(len(group) for group in found)
        return found

    method = inc_lora(rank=2, alpha=3.0).with_penalty(PastEnergy(form="rank_space"))
    learner = Learner(tiny_host("llama", torch.float64), method, optim=OPTIM)
    for seed in range(3):
        learner.adapter.grow()
        learner.adapter.fresh(seed)
        perturb(learner.host.model, seed)
    monkeypatch.setattr(past_energy, "group_by_shape", grouped)
    (penalty,) = method.penalties
    found = penalty.value(learner)
    assert sorted(groups) == [2, 2], "two layers' queries, and their values"
    assert found.item() == pytest.approx(naive(dict(learner.adapter.tensors()), 1.5), rel=1e-10)


def test_the_first_task_and_a_weight_of_zero_are_inc_lora() -> None:
    assert same_tensors(learnt(ella(), tasks=1), learnt(inc_lora(), tasks=1))
    assert same_tensors(learnt(ella(strength=0.0), tasks=3), learnt(inc_lora(), tasks=3))
    assert not same_tensors(learnt(ella()), learnt(inc_lora()))


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_the_second_update_is_small_where_the_first_is_large(architecture: str) -> None:
    optim = OPTIM.model_copy(update={"epochs": 6})
    free = dict(learnt(inc_lora(rank=2), architecture, optim=optim).adapter.tensors())
    kept = dict(learnt(ella(rank=2, strength=1e3), architecture, optim=optim).adapter.tensors())
    assert naive(kept, 16.0) < 0.2 * naive(free, 16.0)
    firsts = [name for name in free if ".past_" in name]
    assert all(torch.equal(kept[name], free[name]) for name in firsts), "the first task's are the same"


def test_what_makes_no_sense_is_refused() -> None:
    for name, why in [
        ("seq_ft", "here are none"),
        ("seq_lora", "share one slot"),
        ("inf_lora", "acts on both factors"),
    ]:
        with pytest.raises(RecipeError, match=why):
            build_method(name).with_penalty(PastEnergy())
    with pytest.raises(RecipeError, match="updates count from their start"):
        build_method("inc_lora+sensitivity_init").with_penalty(PastEnergy())
    with pytest.raises(RecipeError, match="cannot be negative"):
        ella(strength=-1.0)
