"""The fused mixture against a naive float64 computation by autograd, which shares no code with it: values and every
gradient, and what is kept for the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.counting import Operations, kept_bytes
from nacre.adapters.gated import Gated, GatedSite
from nacre.functional.fused_gating import Mixture, fused_mixture

D_IN, D_OUT, RANK, SCALE = 48, 40, 4, 2.0
NAMES = ("x", "down", "up", "selector", "zero_score")


def tensors(tasks: int, seed: int = 0, tokens: tuple[int, ...] = (3, 5)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, size: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * size

    return {
        "x": drawn(*tokens, D_IN),
        "past_down": drawn(tasks - 1, RANK, D_IN, size=0.3),
        "past_up": drawn(tasks - 1, RANK, D_OUT, size=0.3),
        "down": drawn(RANK, D_IN, size=0.3),
        "up": drawn(D_OUT, RANK, size=0.3),
        "selector": drawn(tasks, D_OUT, size=0.2),
        "zero_score": drawn(1),
        "weight": drawn(D_OUT, D_IN, size=0.2),
        "bias": drawn(D_OUT),
    }


def naive(t: dict[str, Tensor], mixture: Mixture, learned: bool, with_base: bool) -> Tensor:
    """Eqs. 4 and 5 task by task, every y_i built."""
    x, tasks = t["x"], len(t["selector"])
    outputs = []
    for task in range(tasks - 1):
        outputs.append(mixture.scale * (x @ t["past_down"][task].T) @ t["past_up"][task])
    outputs.append(mixture.scale * (x @ t["down"].T) @ t["up"].T)
    scores = []
    for task, y in enumerate(outputs):
        z = (y * t["selector"][task]).sum(-1) * (mixture.key_scale / mixture.scale)
        z = {"none": z, "tanh": torch.tanh(z), "relu": torch.clamp(z, min=0)}[mixture.activation]
        scores.append(z - mixture.offset if task == tasks - 1 else z)
    powers = [torch.exp(z) for z in scores]
    total = sum(powers)
    if mixture.zero_lora:
        total = total + torch.exp(t["zero_score"] if learned else torch.zeros(1, dtype=x.dtype))
    delta = sum(power.unsqueeze(-1) / total.unsqueeze(-1) * y for power, y in zip(powers, outputs, strict=True))
    return delta + x @ t["weight"].T + t["bias"] if with_base else delta


def fused(t: dict[str, Tensor], mixture: Mixture, learned: bool, with_base: bool) -> Tensor:
    def stacked(past: Tensor) -> Tensor:
        return torch.cat([past.flatten(0, 1), past.new_full((RANK, past.shape[-1]), float("nan"))])

    return fused_mixture(
        t["x"],
        t["down"],
        t["up"],
        t["selector"],
        t["zero_score"] if learned else None,
        stacked(t["past_down"]),
        stacked(t["past_up"]),
        mixture,
        (t["weight"], t["bias"]) if with_base else None,
    )


def value_and_gradients(function: Any, t: dict[str, Tensor], *options: Any) -> dict[str, Tensor]:
    leaves = t | {name: t[name].clone().requires_grad_() for name in NAMES}
    value = function(leaves, *options)
    weights = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape).to(value)
    (value * weights).sum().backward()
    return {"value": value.detach()} | {name: leaves[name].grad for name in NAMES if leaves[name].grad is not None}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    # Relative to the largest entry; absolute below 1: a lone gate is 1, and its selector's gradient exactly zero.
    errors = [(found[k].double() - expected[k]).abs().max() / expected[k].abs().max().clamp(min=1) for k in found]
    return max(error.item() for error in errors)


KINDS = [
    (Mixture(SCALE, SCALE, True), False),
    (Mixture(SCALE, SCALE, True), True),
    (Mixture(SCALE, SCALE, False), False),
    (Mixture(SCALE, 1.0, True, "tanh"), False),
    (Mixture(SCALE, 1.0, True, "relu"), True),
    (Mixture(SCALE, SCALE, True, "none", 0.7), False),
    (Mixture(SCALE, SCALE, False, "tanh", 0.7), False),
]


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(("mixture", "learned"), KINDS)
@pytest.mark.parametrize("tasks", [1, 2, 6, 51])
def test_values_and_gradients(tasks: int, mixture: Mixture, learned: bool, with_base: bool) -> None:
    t = tensors(tasks)
    expected = value_and_gradients(naive, t, mixture, learned, with_base)
    assert worst(value_and_gradients(fused, t, mixture, learned, with_base), expected) <= 1e-12
    single = {name: tensor.float() for name, tensor in t.items()}
    assert worst(value_and_gradients(fused, single, mixture, learned, with_base), expected) <= 5e-6


def test_large_scores_do_not_overflow() -> None:
    t = tensors(3)
    t["selector"] *= 1e4
    value = fused({name: tensor.float() for name, tensor in t.items()}, Mixture(SCALE, SCALE, True), False, False)
    assert value.isfinite().all()


def test_gradients_that_nobody_wants_are_not_made() -> None:
    t = tensors(3)
    whole = value_and_gradients(fused, t, Mixture(SCALE, SCALE, True), True, True)
    leaves = t | {"up": t["up"].clone().requires_grad_()}
    value = fused(leaves, Mixture(SCALE, SCALE, True), True, True)
    weights = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape)
    (value * weights).sum().backward()
    assert torch.equal(leaves["up"].grad, whole["up"])


def test_a_step_before_the_backward_pass_is_noticed() -> None:
    t = tensors(3)
    leaves = t | {name: t[name].clone().requires_grad_() for name in NAMES}
    value = fused(leaves, Mixture(SCALE, SCALE, True), False, False)
    with torch.no_grad():
        leaves["down"] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_the_base_may_read_another_input_than_the_loras() -> None:
    """As with dropout: x reaches the LoRAs only, ``undropped`` the base only, each with a gradient of its own."""
    mixture = Mixture(SCALE, SCALE, True, "tanh", 0.3)
    t = tensors(4)
    t["undropped"] = tensors(1, seed=1)["x"]
    names = (*NAMES[:4], "undropped")

    def found(function: Callable[..., Tensor], wanted: tuple[str, ...]) -> dict[str, Tensor]:
        leaves = t | {name: t[name].clone().requires_grad_() for name in wanted}
        value = function(leaves)
        value.square().sum().backward()
        return {"value": value.detach()} | {name: leaves[name].grad for name in wanted}

    def stacked(past: Tensor) -> Tensor:
        return torch.cat([past.flatten(0, 1), past.new_empty(RANK, past.shape[-1])])

    def ours(leaves: dict[str, Tensor]) -> Tensor:
        trained = (leaves[name] for name in ("x", "down", "up", "selector"))
        stacks = stacked(t["past_down"]), stacked(t["past_up"])
        return fused_mixture(*trained, None, *stacks, mixture, (t["weight"], t["bias"]), leaves["undropped"])

    def theirs(leaves: dict[str, Tensor]) -> Tensor:
        return naive(leaves, mixture, False, False) + leaves["undropped"] @ t["weight"].T + t["bias"]

    assert worst(found(ours, names), found(theirs, names)) <= 1e-12
    for alone in ("x", "undropped"):
        assert worst(found(ours, (alone,)), found(theirs, (alone,))) <= 1e-12


@pytest.mark.parametrize(("mixture", "learned"), KINDS)
def test_without_gradients_the_value_is_the_same_to_the_bit(mixture: Mixture, learned: bool) -> None:
    t = tensors(6)
    with torch.no_grad():
        value = fused(t, mixture, learned, True)
    assert torch.equal(value, value_and_gradients(fused, t, mixture, learned, True)["value"])


@pytest.mark.parametrize("tasks", [1, 5, 50])
def test_codes_and_gates_are_all_that_is_kept(tasks: int) -> None:
    """4 T n (r + 1) bytes, and little more: the zero LoRA's gates and the keys."""
    rank, tokens = 8, 64
    site = GatedSite(nn.Linear(D_IN, D_OUT).requires_grad_(False), Gated(rank=rank, dropout=0.0))
    for task in range(tasks):
        site.grow()
        site.fresh(task)
    x = torch.randn(tokens, D_IN, requires_grad=True)
    kept = kept_bytes(lambda: site(x), [*site.parameters(), *site.buffers(), x])
    codes_and_gates = 4 * tokens * tasks * (rank + 1)
    assert kept == codes_and_gates + 4 * (tokens + tasks * rank)
    assert kept <= 1.2 * codes_and_gates


def operations(tasks: int, **options: Any) -> Counter[str]:
    """Of one site's forward and backward pass."""
    site = GatedSite(nn.Linear(D_IN, D_OUT).requires_grad_(False), Gated(rank=2, **{"dropout": 0.0, **options}))
    for task in range(tasks):
        site.grow()
        site.fresh(task)
    x = torch.randn(3, 7, D_IN, requires_grad=True)
    site(x)  # the stacks are made once a task
    wanted = [x, *(parameter for parameter in site.parameters() if parameter.requires_grad)]
    with Operations() as forward:
        y = site(x)
    weights = torch.ones_like(y)
    with Operations() as backward:
        torch.autograd.grad(y, wanted, weights)
    return forward.found + backward.found


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 26),
        ({"zero_lora": False}, 25),
        ({"selectors": "new"}, 27),
        ({"activation": "relu"}, 29),
        ({"activation": "tanh"}, 30),
        ({"zero_lora": "learned"}, 30),
        ({"dropout": 0.1}, 32),  # three of them make the mask, three use it
    ],
    ids=str,
)
def test_operations_of_a_site_do_not_grow_with_the_tasks(options: dict[str, Any], count: int) -> None:
    for tasks in (2, 9):
        assert operations(tasks, **options).total() == count, operations(tasks, **options)
