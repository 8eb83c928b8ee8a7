"""N-LoRA: what its penalty is, in both forms, what it does to updates, and where it makes no sense."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contract import same_tensors
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import ModelError, RecipeError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds")]
SQUARE: dict[str, Any] = {"roles": ["query", "output"], "rank": 2}


def learnt(name: str, architecture: str = "t5", tasks: int = 2, optim: Optim = OPTIM, **parameters: Any) -> Learner:
    learner = Learner(tiny_host(architecture), build_method(name, parameters), seed=7, optim=optim)
    for task in TASKS[:tasks]:
        learner.learn(task)
    return learner


def naive(tensors: dict[str, Tensor], form: str) -> float:
    """sum |B A| or sum |A B| of the public tensors, entry by entry."""
    total = 0.0
    for name in [name.removesuffix(".down.weight") for name in tensors if name.endswith(".down.weight")]:
        down, up = tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"]
        sigma = tensors.get(f"{name}.sigma", torch.ones(len(down)))
        left, right = (up * sigma, down) if form == "update" else (down, up * sigma)
        for row in left.tolist():
            for column in right.T.tolist():
                total += abs(math.fsum(a * b for a, b in zip(row, column, strict=True)))
    return total


@pytest.mark.parametrize("form", ["update", "released"])
@pytest.mark.parametrize("name", ["inc_lora", "seq_lora", "am_lora", "nlnb_cl"])
def test_the_penalty_is_that_of_the_public_tensors(name: str, form: str) -> None:
    base, settings = ("lb_cl", {"variant": "nlnb_cl"}) if name == "nlnb_cl" else (name, {})
    method = build_method(f"{base}+update_l1", {**SQUARE, **settings, "update_l1": {"form": form}})
    learner = Learner(tiny_host("t5", torch.float64), method, optim=OPTIM)
    for seed in range(2):
        learner.adapter.grow()
        learner.adapter.fresh(seed)
        perturb(learner.host.model, seed)
    penalty = next(each for each in method.penalties if each.key == "update_l1")
    assert penalty.value(learner).item() == pytest.approx(naive(dict(learner.adapter.tensors()), form), rel=1e-10)


def test_the_two_forms_have_nothing_to_do_with_one_another() -> None:
    """A reads what B does not write: A B is zero, and B A is not."""
    learner = Learner(tiny_host("t5"), build_method("n_lora", {**SQUARE, "form": "released"}), optim=OPTIM)
    learner.adapter.grow()
    for site in learner.adapter.sites.values():  # type: ignore[attr-defined]
        with torch.no_grad():
            site.slots.down.weight.zero_()[:, :2] = torch.eye(2)
            site.slots.up.weight.zero_()[2:4] = torch.eye(2)
    (penalty,) = learner.method.penalties
    assert penalty.value(learner) == 0
    assert naive(dict(learner.adapter.tensors()), "update") == 2 * len(learner.adapter.sites)  # type: ignore[attr-defined]


def test_it_is_a_name_for_the_modifier_and_without_weight_it_is_inc_lora() -> None:
    learner = learnt("n_lora", strength=0.01)
    assert same_tensors(learner, learnt("inc_lora+update_l1", update_l1={"strength": 0.01}))
    assert not same_tensors(learner, learnt("inc_lora"))
    assert same_tensors(learnt("n_lora", strength=0.0), learnt("inc_lora"))


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_updates_get_smaller_entry_by_entry(architecture: str) -> None:
    optim = OPTIM.model_copy(update={"epochs": 6})
    sizes = [
        naive(dict(learnt(name, architecture, optim=optim, rank=2, **settings).adapter.tensors()), "update")
        for name, settings in [("inc_lora", {}), ("n_lora", {"strength": 0.05})]
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ModelError, match="this one reads 16 and writes 8"):
        learnt("n_lora", "llama", roles=["value"], form="released")
    with pytest.raises(RecipeError, match="it acts on the update B A of a LoRA, and here is none"):
        build_method("seq_ft+update_l1")
    for name in ("moe_lora", "seq_lora+hat"):
        with pytest.raises(RecipeError, match="depends on the row stands between B and A"):
            build_method(f"{name}+update_l1")
    with pytest.raises(RecipeError, match="updates count from their start"):
        build_method("inc_lora+sensitivity_init+update_l1")
    with pytest.raises(RecipeError, match="cannot be negative"):
        build_method("n_lora", {"strength": -1.0})
