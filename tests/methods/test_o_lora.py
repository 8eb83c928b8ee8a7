"""O-LoRA in training: its penalties' values, what they do, and when they vanish."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import RecipeError
from nacre.events import Event, StepTaken, TrainingPrepared
from nacre.functional.stacking import group_by_shape
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts import orthogonality
from nacre.parts.orthogonality import Pairs
from nacre.parts.part import GradientRule
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


def learnt(
    name: str, architecture: str = "t5", tasks: int = 2, optim: Optim = OPTIM, **parameters: Any
) -> dict[str, Tensor]:
    learner = Learner(tiny_host(architecture), build_method(name, parameters), seed=7, optim=optim)
    for task in TASKS[:tasks]:
        learner.learn(task)
    return {key: tensor.clone() for key, tensor in learner.adapter.tensors().items()}


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[key]) for key, tensor in left.items())


def naive_overlap(tensors: Mapping[str, Tensor], side: str, norm: str) -> tuple[float, int]:
    """From the public tensors, product by product; and how many matrices there are."""
    total, matrices = 0.0, 0
    for name in [name.removesuffix(".down.weight") for name in tensors if name.endswith(".down.weight")]:
        sides = []
        if side in ("input", "both"):
            sides.append((tensors[f"{name}.down.weight"], tensors[f"{name}.past_down"]))
        if side in ("output", "both"):
            sides.append((tensors[f"{name}.up.weight"].T, tensors[f"{name}.past_up"]))
        for new, past in sides:
            matrices += 1
            for old_row in past.flatten(0, 1).tolist():
                for row in new.tolist():
                    product = math.fsum(a * b for a, b in zip(old_row, row, strict=True))
                    total += abs(product) if norm == "absolute" else product**2
    return total, matrices


@pytest.mark.parametrize("norm", ["absolute", "squared"])
@pytest.mark.parametrize("side", ["input", "output", "both"])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_penalty_is_that_of_the_public_tensors(norm: str, side: str, reduce: str) -> None:
    parameters = {"norm": norm, "side": side, "reduce": reduce, "rank": 2}
    learner = Learner(tiny_host("t5", torch.float64), build_method("o_lora", parameters), optim=OPTIM)
    for seed in range(3):
        learner.adapter.grow()
        learner.adapter.fresh(seed)
        perturb(learner.host.model, seed)
    orthogonality, shrinkage = learner.method.penalties
    total, matrices = naive_overlap(learner.adapter.tensors(), side, norm)
    expected = total if reduce == "sum" else total / matrices
    assert math.isclose(orthogonality.value(learner).item(), expected, rel_tol=1e-10)
    new = [t for name, t in learner.adapter.tensors().items() if name.endswith((".down.weight", ".up.weight"))]
    lengths = math.fsum(math.sqrt(math.fsum(x * x for x in t.flatten().tolist())) for t in new)
    assert math.isclose(shrinkage.value(learner).item(), lengths, rel_tol=1e-10)


def test_the_gradient_reaches_the_new_factor_of_the_side_and_nothing_else() -> None:
    for side, trained, left in [("input", "down", "up"), ("output", "up", "down")]:
        learner = Learner(tiny_host("t5"), build_method("o_lora", {"side": side}), optim=OPTIM)
        for seed in range(2):
            learner.adapter.grow()
            learner.adapter.fresh(seed)
            perturb(learner.host.model, seed)
        learner.method.penalties[0].value(learner).backward()
        groups = {group.name: group.parameters for group in learner.trainable()}
        assert all(p.grad.abs().sum() > 0 for p in groups[trained])
        assert all(p.grad is None for p in groups[left])


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_without_its_penalties_it_is_inc_lora_bit_for_bit(architecture: str) -> None:
    expected = learnt("inc_lora", architecture, 3)
    assert equal(learnt("o_lora", architecture, 3, orthogonality=0.0, shrinkage=0.0), expected)
    assert equal(learnt("inc_lora+orthogonality", architecture, 3, orthogonality={"strength": 0.0}), expected)


def test_the_first_task_is_that_of_inc_lora_whatever_the_strength() -> None:
    for norm in ("absolute", "squared"):
        assert equal(learnt("o_lora", tasks=1, orthogonality=50.0, norm=norm), learnt("inc_lora", tasks=1))


def test_it_is_inc_lora_with_the_modifier() -> None:
    settings = {"strength": (0.0, 3.0), "norm": "squared", "side": "both", "reduce": "mean"}
    own = {"orthogonality": (0.0, 3.0), "norm": "squared", "side": "both", "reduce": "mean"}
    assert equal(learnt("inc_lora+orthogonality", orthogonality=settings), learnt("o_lora", **own))
    assert equal(learnt("inc_lora+orthogonality"), learnt("o_lora"))


@pytest.mark.parametrize("norm", ["absolute", "squared"])
@pytest.mark.parametrize("side", ["input", "output"])
def test_the_penalty_makes_tasks_overlap_less(norm: str, side: str) -> None:
    optim = Optim(batch_size=4, learning_rate=1e-2, epochs=4)

    def after(strength: float) -> float:
        tensors = learnt("o_lora", optim=optim, orthogonality=strength, norm=norm, side=side, dropout=0.0)
        return naive_overlap(tensors, side, norm)[0]

    assert after(5.0) < 0.5 * after(0.0)


# LB-CL's orthogonal training would project the penalty's own gradient away, which lies in the span of the past.
@pytest.mark.parametrize(("name", "settings"), [("am_lora", {}), ("lb_cl", {"variant": "nlnb_cl"})])
def test_it_goes_with_every_adapter_that_keeps_a_lora_a_task(name: str, settings: dict[str, Any]) -> None:
    settings = {"dropout": 0.0, "optim": Optim(batch_size=4, learning_rate=1e-2, epochs=4), **settings}
    plain = learnt(f"{name}+orthogonality", **settings, orthogonality={"strength": 0.0})
    assert equal(plain, learnt(name, **settings))
    held = learnt(f"{name}+orthogonality", **settings, orthogonality={"strength": 5.0})
    assert naive_overlap(held, "input", "absolute")[0] < 0.5 * naive_overlap(plain, "input", "absolute")[0]


def test_shrinkage_keeps_new_tensors_short_and_finite_from_their_zero_start() -> None:
    def size(strength: float) -> float:
        tensors = learnt("o_lora", tasks=1, shrinkage=strength, side="both")
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        return sum(t.norm().item() for name, t in tensors.items() if name.endswith(("down.weight", "up.weight")))

    assert size(1.0) < 0.99 * size(0.0)


def test_lambdas_may_differ_from_task_to_task() -> None:
    seen: list[tuple[float, float]] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken) and event.step == event.steps:
            terms = event.terms
            assert terms["norm_penalty"] > 0
            overlap = terms["orthogonality"]
            weight = terms["orthogonality_weighted"] / overlap if overlap else 0.0
            seen.append((weight, terms["norm_penalty_weighted"] / terms["norm_penalty"]))

    method = build_method("o_lora", {"orthogonality": [9.0, 0.5, 5.0], "shrinkage": [0.0, 0.1, 0.3]})
    learner = Learner(tiny_host("t5"), method, optim=OPTIM, on_event=watch)
    for task in TASKS:
        learner.learn(task)
    expected = [(0.0, 0.0), (0.5, 0.1), (5.0, 0.3)]  # on the first task nothing can overlap
    assert len(seen) == 3
    assert torch.allclose(torch.tensor(seen), torch.tensor(expected), atol=1e-6)


def test_accumulation_does_not_change_the_penalties_weight() -> None:
    """The released code adds its penalties after dividing by the number of micro-batches."""

    def gradients(accumulation: int) -> list[Tensor]:
        found: list[Tensor] = []

        class Seen(GradientRule):
            def apply(self, learner: Any) -> None:
                if learner.task_number == 2 and learner.step.number == 0:
                    found.extend(p.grad.clone() for group in learner.trainable() for p in group.parameters)

        optim = Optim(batch_size=6, learning_rate=1e-2, log_every=1, accumulation=accumulation, max_grad_norm=None)
        method = build_method("o_lora", {"dropout": 0.0, "shrinkage": 0.2}).with_gradient_rule(Seen())
        learner = Learner(tiny_host("t5", torch.float64), method, optim=optim)
        for task in TASKS[:2]:
            learner.learn(task)
        return found

    whole, split = gradients(1), gradients(3)
    assert whole
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(whole, split, strict=True))
    assert sum(tensor.abs().sum() for tensor in whole) > 1


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("side", ["input", "both"])
def test_stacked_as_on_an_accelerator_it_trains_the_same(
    architecture: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama's query and value maps differ in shape, so that there are two groups of each side."""
    optim = Optim(batch_size=4, learning_rate=1e-2, max_grad_norm=None)
    settings = {"architecture": architecture, "tasks": 3, "side": side, "optim": optim}
    alone = learnt("o_lora", **settings)
    groups: list[int] = []

    def stacked(items: Any, shape: Any, device: torch.device) -> list[list[Any]]:
        found = group_by_shape(items, shape, torch.device("cuda"))
        groups.extend(len(group) for group in found)
        return found

    monkeypatch.setattr(orthogonality, "group_by_shape", stacked)
    together = learnt("o_lora", **settings)
    assert max(groups) > 1
    assert alone.keys() == together.keys()
    # AdamW turns a rounding of a gradient near zero into a step: few entries may part, by no more than that.
    apart = torch.cat([(alone[name] - together[name]).abs().flatten() for name in alone])
    assert apart.median() <= 1e-6
    assert (apart > 1e-4).float().mean() < 0.01


def test_tensors_are_paired_once_a_task_and_nothing_is_copied_or_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Pairs] = []

    class Counted(Pairs):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(orthogonality, "Pairs", Counted)
    learner = Learner(tiny_host("t5"), build_method("o_lora", {}), optim=OPTIM)
    learner.learn(TASKS[0])
    seen: list[set[int]] = []
    learner.on_event = lambda event: (
        isinstance(event, TrainingPrepared)
        and seen.append({site.past_by_group()["down"].data_ptr() for site in learner.adapter.sites.values()})
    )
    learner.learn(TASKS[1])
    assert len(made) == 2
    assert {past.data_ptr() for past in made[1].past} == seen[0], "on the CPU the earlier tasks' own memory"
    assert learner.resources == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("seq_lora+orthogonality", "all tasks share one slot; inc_lora, am_lora and lb_cl have one for each task"),
        ("lora_replay+orthogonality", "all tasks share one slot"),
        ("seq_ft+orthogonality", "here are none; inc_lora, am_lora and lb_cl have them"),
        ("joint+orthogonality", "here are none"),
    ],
)
def test_methods_without_a_lora_a_task_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        build_method(name)


@pytest.mark.parametrize("parameter", ["orthogonality", "shrinkage"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [(-0.1, "cannot be negative"), ([0.5, -1.0], "cannot be negative"), (float("nan"), "a finite number is expected")],
)
def test_lambdas_cannot_be_negative(parameter: str, value: object, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        build_method("o_lora", {parameter: value})
