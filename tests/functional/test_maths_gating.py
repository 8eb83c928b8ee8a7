"""AM-LoRA in rank space against a naive float64 computation that shares no code with it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nacre.adapters.gated import Gated, GatedSite
from nacre.functional.gating import (
    gate_values,
    low_rank_codes,
    mixed_update,
    selector_keys,
    selector_scores,
)
from nacre.functional.penalties import absolute_mean, absolute_sum
from nacre.functional.proximal import soft_threshold

BOUND = 1e-12
ACTIVATIONS = {
    "none": lambda z: z,
    "tanh": lambda z: (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z)),
    "relu": lambda z: z if z > 0 else 0 * z,
}


def naive(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    selector: Tensor,
    scale: float,
    zero: Tensor | float | None,
    *,
    unscaled: bool = False,
    activation: str = "none",
    offset: float = 0.0,
    dropped: Tensor | None = None,
) -> Tensor:
    """Eqs. 4 and 5 as they are printed: every LoRA's output is built, token by token.

    zero: the zero LoRA's score, None without one. dropped: what the newest LoRA sees in the place of x.
    """
    rows = []
    seen_by_newest = (x if dropped is None else dropped).reshape(-1, x.shape[-1])
    for token, newest in zip(x.reshape(-1, x.shape[-1]), seen_by_newest, strict=True):
        seen = [token] * (len(down) - 1) + [newest]
        outputs = [scale * (b.T @ (a @ value)) for a, b, value in zip(down, up, seen, strict=True)]  # y_i, [d_out]
        scores = [
            ACTIVATIONS[activation](w @ (y / scale if unscaled else y)) for w, y in zip(selector, outputs, strict=True)
        ]
        scores[-1] = scores[-1] - offset
        weights = [torch.exp(score) for score in scores]
        total = sum(weights) + (0.0 if zero is None else torch.exp(torch.as_tensor(zero, dtype=torch.float64)))
        rows.append(sum(weight / total * y for weight, y in zip(weights, outputs, strict=True)))
    return torch.stack(rows).reshape(*x.shape[:-1], up.shape[-1])


def mixture(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    selector: Tensor,
    scale: float,
    zero: Tensor | None,
    *,
    unscaled: bool = False,
    activation: str = "none",
    offset: float = 0.0,
) -> Tensor:
    """What a site computes beside its base."""
    codes = low_rank_codes(x, down)
    keys = selector_keys(up, selector, 1.0 if unscaled else scale)
    scores = selector_scores(codes, keys, activation=activation, offset=offset)
    return mixed_update(codes, gate_values(scores, zero), up, scale=scale)


def tensors(tasks: int, rank: int, d_in: int, d_out: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    return {
        "x": draw(3, 5, d_in),
        "down": draw(tasks, rank, d_in),
        "up": draw(tasks, rank, d_out),
        "selector": draw(tasks, d_out),
    }


def fixed_zero() -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("zero_lora", [True, False])
@pytest.mark.parametrize(("tasks", "rank", "d_in", "d_out"), [(1, 2, 6, 6), (3, 4, 10, 7), (6, 3, 5, 12)])
def test_values_and_all_gradients(tasks: int, rank: int, d_in: int, d_out: int, zero_lora: bool) -> None:
    fast, slow = tensors(tasks, rank, d_in, d_out), tensors(tasks, rank, d_in, d_out)
    weights = torch.randn(3, 5, d_out, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = mixture(*fast.values(), 0.7, fixed_zero() if zero_lora else None)
    expected = naive(*slow.values(), 0.7, 0.0 if zero_lora else None)
    assert relative(found, expected) <= BOUND
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, tensor in fast.items():
        if tasks == 1 and name == "selector" and not zero_lora:
            assert tensor.grad.norm() <= BOUND  # a softmax over one task is constant
            continue
        assert relative(tensor.grad, slow[name].grad) <= BOUND, name


@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("unscaled", [False, True], ids=["scaled", "unscaled"])
def test_every_option_with_a_learned_zero_and_an_offset(tasks: int, activation: str, unscaled: bool) -> None:
    fast, slow = tensors(tasks, 3, 6, 8), tensors(tasks, 3, 6, 8)
    zeros = [torch.tensor([0.4], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    options = {"unscaled": unscaled, "activation": activation, "offset": 1.3}
    found = mixture(*fast.values(), 0.6, zeros[0], **options)
    expected = naive(*slow.values(), 0.6, zeros[1], **options)
    assert relative(found, expected) <= BOUND
    found.square().sum().backward()
    expected.square().sum().backward()
    assert relative(zeros[0].grad, zeros[1].grad) <= BOUND
    for name, tensor in fast.items():
        assert relative(tensor.grad, slow[name].grad) <= BOUND, name
    # And every option does something: without it the values differ.
    for without in (
        {"unscaled": not unscaled},
        {"offset": 0.0},
        {"activation": "tanh" if activation != "tanh" else "none"},
    ):
        assert relative(mixture(*fast.values(), 0.6, zeros[0], **{**options, **without}), expected) > 1e-3


def test_gradients_numerically() -> None:
    given_tensors = tensors(2, 2, 4, 3)
    zero = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    for options in ({}, {"activation": "tanh", "offset": 0.5, "unscaled": True}):
        assert torch.autograd.gradcheck(
            lambda *t, options=options: mixture(*t[:4], 0.7, t[4], **options), (*given_tensors.values(), zero)
        )


@pytest.mark.parametrize("selectors", ["all", "new"])
@pytest.mark.parametrize("zero_lora", [True, False, "learned"])
@pytest.mark.parametrize("selector_input", ["scaled", "unscaled"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dropout_on", ["all", "new"])
def test_the_site_equals_the_naive_computation_after_several_tasks(
    selectors: str, zero_lora: bool | str, selector_input: str, activation: str, dropout_on: str
) -> None:
    base = nn.Linear(6, 9, dtype=torch.float64)
    site = GatedSite(
        base,
        Gated(
            rank=2,
            alpha=3.0,
            dropout=0.4,
            dropout_on=dropout_on,
            selectors=selectors,
            zero_lora=zero_lora,
            selector_input=selector_input,
            activation=activation,
        ),
    )
    generator = torch.Generator().manual_seed(3)
    for task in range(4):
        site.grow()
        site.fresh(task)
        with torch.no_grad():
            for parameter in site.parameters_by_group().values():  # not so far that a softmax saturates
                parameter.add_(0.4 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    assert site.selector.shape == (4, 9)
    assert site.slots.past_down.shape == (3, 2, 6)
    assert site.slots.past_up.shape == (3, 2, 9)
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        masked = x * nn.functional.dropout(torch.ones_like(x), 0.4)
        assert (masked == 0).any()
        torch.manual_seed(11)
        found = site.train()(x)

    new_down = site.slots.down.weight.detach().clone().requires_grad_()
    new_up = site.slots.up.weight.detach().T.clone().requires_grad_()
    selector = site.selector.detach().clone().requires_grad_()
    zero: Tensor | float | None = 0.0 if zero_lora else None
    if zero_lora == "learned":
        zero = site.zero_score.detach().clone().requires_grad_()
    expected = base(x) + naive(
        masked if dropout_on == "all" else x,
        torch.cat([site.slots.past_down, new_down[None]]),
        torch.cat([site.slots.past_up, new_up[None]]),
        selector,
        1.5,
        zero,
        unscaled=selector_input == "unscaled",
        activation=activation,
        dropped=masked,
    )
    assert relative(found, expected) <= BOUND
    found.square().sum().backward()
    expected.square().sum().backward()
    assert relative(site.slots.down.weight.grad, new_down.grad) <= BOUND
    assert relative(site.slots.up.weight.grad, new_up.grad.T) <= BOUND
    trained = selector.grad if selectors == "all" else selector.grad[-1:]
    assert relative(site.trained_selectors.grad, trained) <= BOUND
    if zero_lora == "learned":
        assert relative(site.zero_score.grad, zero.grad) <= BOUND


def test_the_start_of_a_stream_is_half_a_lora() -> None:
    """With one task, g = sigmoid(z): the zero LoRA has the other half."""
    one = tensors(1, 2, 6, 4)
    scores = selector_scores(low_rank_codes(one["x"], one["down"]), selector_keys(one["up"], one["selector"], 0.5))
    assert torch.allclose(gate_values(scores, fixed_zero()), torch.sigmoid(scores), atol=1e-14)
    assert torch.equal(gate_values(scores, None), torch.ones_like(scores))


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_a_new_task_takes_its_share_before_any_step(offset: float) -> None:
    """At the start of task n its B is 0, so its score is 0, or -c with an offset, and every older gate shrinks by
    Z / (Z + exp(-c))."""
    three = tensors(3, 2, 6, 4)
    up = three["up"].detach().clone()
    up[-1] = 0
    codes, keys = low_rank_codes(three["x"], three["down"]), selector_keys(up, three["selector"], 0.5)
    before = gate_values(selector_scores(codes[..., :2, :], keys[:2]), fixed_zero())
    after = gate_values(selector_scores(codes, keys, offset=offset), fixed_zero())
    total = 1 + torch.exp(torch.einsum("...tr,tr->...t", codes[..., :2, :], keys[:2])).sum(-1, keepdim=True)
    share = math.exp(-offset)
    assert torch.allclose(after[..., :2], before * total / (total + share), atol=1e-14)
    assert torch.allclose(after[..., 2:], share / (total + share), atol=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.1, "dropout_on": "new"},
        {"activation": "tanh", "zero_lora": "learned", "selector_input": "unscaled"},
        {"activation": "relu", "zero_lora": False},
    ],
    ids=str,
)
def test_no_activation_of_tasks_times_tokens_times_outputs_is_kept(options: dict[str, object]) -> None:
    tasks, rank, tokens, width = 12, 2, 64, 48
    site = GatedSite(nn.Linear(width, width), Gated(**{"rank": rank, "dropout": 0.0, **options}))
    for task in range(tasks):
        site.grow()
        site.fresh(task)
    site.offset = 1.0
    sizes = []
    x = torch.randn(tokens, width, requires_grad=True)

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        site(x)
    assert max(sizes) < tasks * tokens * width / 4
    assert max(sizes) <= max(tasks * rank * max(tokens, width), tokens * width)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.booleans(), st.floats(0.1, 30))
def test_gates_are_shares(tasks: int, rank: int, zero_lora: bool, size: float) -> None:
    generator = torch.Generator().manual_seed(tasks * 7 + rank)
    codes = size * torch.randn(9, tasks, rank, dtype=torch.float64, generator=generator)
    keys = torch.randn(tasks, rank, dtype=torch.float64, generator=generator)
    gates = gate_values(selector_scores(codes, keys), fixed_zero() if zero_lora else None)
    assert (gates >= 0).all()
    total = gates.sum(-1)
    assert torch.allclose(total, torch.ones_like(total)) if not zero_lora else (total <= 1 + 1e-12).all()


def test_half_precision_scores_are_raised() -> None:
    codes = torch.full((1, 2, 1), 200.0, dtype=torch.float16)
    scores = selector_scores(codes, torch.full((2, 1), 200.0, dtype=torch.float16))
    assert scores.dtype == torch.float32
    gates = gate_values(selector_scores(codes, torch.full((2, 1), 2.0, dtype=torch.float16)), torch.zeros(1))
    assert gates.isfinite().all()
    assert mixed_update(codes, gates, torch.ones(2, 1, 3, dtype=torch.float16), scale=1.0).dtype == torch.float16


def test_the_mean_penalty_is_the_sum_over_the_number_of_entries() -> None:
    generator = torch.Generator().manual_seed(2)
    given_tensors = [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((3, 4), (5,), (1, 2))
    ]
    entries = [value for tensor in given_tensors for value in tensor.flatten().tolist()]
    assert abs(absolute_mean(given_tensors).item() - sum(map(abs, entries)) / len(entries)) <= 1e-15
    absolute_mean(given_tensors).backward()
    assert all(torch.equal(tensor.grad, tensor.detach().sign() / len(entries)) for tensor in given_tensors)
    assert abs(absolute_sum(given_tensors).item() - sum(map(abs, entries))) <= 1e-13


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0, 4))
def test_the_soft_threshold_is_the_proximal_map(values: list[float], amount: float) -> None:
    found = soft_threshold(torch.tensor(values, dtype=torch.float64), amount).tolist()
    for value, shrunk in zip(values, found, strict=True):
        assert shrunk == (0.0 if abs(value) <= amount else math.copysign(abs(value) - amount, value))
        costs = [(v - value) ** 2 / 2 + amount * abs(v) for v in (shrunk, *(n / 10 for n in range(-60, 61)))]
        assert costs[0] <= min(costs) + 1e-12


def test_the_edges_of_the_soft_threshold() -> None:
    values = torch.tensor([1.5, -0.0, -3e-40, float("inf"), float("nan")])
    assert torch.equal(soft_threshold(values, 0.0)[:4], values[:4])
    assert soft_threshold(values, 0.5).isnan().tolist() == [False, False, False, False, True]
    assert soft_threshold(torch.tensor([0.5, -0.5, 0.25]), 0.5).tolist() == [0.0, 0.0, 0.0]
