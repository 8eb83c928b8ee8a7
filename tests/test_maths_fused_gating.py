"""The fused mixture against a naive float64 computation by autograd, which shares no code with it: values and every
gradient, and what is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

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


@pytest.mark.parametrize("tasks", [1, 5, 50])
def test_codes_and_gates_are_all_that_is_kept(tasks: int) -> None:
    """4 T n (r + 1) bytes beside the input and what belongs to the module."""
    t = {name: tensor.float() for name, tensor in tensors(tasks, tokens=(64,)).items()}
    leaves = t | {name: t[name].clone().requires_grad_() for name in NAMES}
    own = {tensor.data_ptr() for tensor in leaves.values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused(leaves, Mixture(SCALE, SCALE, True), False, True)
    assert sum(kept.values()) == 4 * 64 * tasks * (RANK + 1)
