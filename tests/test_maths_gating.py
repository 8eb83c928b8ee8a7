"""AM-LoRA in rank space against a naive float64 computation that shares no code with it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nacre.adapters.gated import Gated, GatedSite
from nacre.functional.gating import gate_values, gated_mixture, selector_keys

BOUND = 1e-12


def naive(x: Tensor, down: Tensor, up: Tensor, selector: Tensor, scale: float, zero_lora: bool) -> Tensor:
    """Eqs. 4 and 5 as they are printed: every LoRA's output is built, token by token."""
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        outputs = [scale * (b.T @ (a @ token)) for a, b in zip(down, up, strict=True)]  # Delta w_i x, [d_out]
        scores = [w @ y for w, y in zip(selector, outputs, strict=True)]
        weights = [torch.exp(score) for score in scores]
        total = sum(weights) + (1.0 if zero_lora else 0.0)  # exp(0) for the zero LoRA
        rows.append(sum(weight / total * y for weight, y in zip(weights, outputs, strict=True)))
    return torch.stack(rows).reshape(*x.shape[:-1], up.shape[-1])


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


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("zero_lora", [True, False])
@pytest.mark.parametrize(("tasks", "rank", "d_in", "d_out"), [(1, 2, 6, 6), (3, 4, 10, 7), (6, 3, 5, 12)])
def test_values_and_all_gradients(tasks: int, rank: int, d_in: int, d_out: int, zero_lora: bool) -> None:
    fast, slow = tensors(tasks, rank, d_in, d_out), tensors(tasks, rank, d_in, d_out)
    weights = torch.randn(3, 5, d_out, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = gated_mixture(**fast, scale=0.7, zero_lora=zero_lora)
    expected = naive(*slow.values(), scale=0.7, zero_lora=zero_lora)
    assert relative(found, expected) <= BOUND
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, tensor in fast.items():
        if tasks == 1 and name == "selector" and not zero_lora:
            assert tensor.grad.norm() <= BOUND  # a softmax over one task is constant
            continue
        assert relative(tensor.grad, slow[name].grad) <= BOUND, name


def test_gradients_numerically() -> None:
    given_tensors = tensors(2, 2, 4, 3)
    assert torch.autograd.gradcheck(lambda *t: gated_mixture(*t, scale=0.7), tuple(given_tensors.values()))


@pytest.mark.parametrize("selectors", ["all", "new"])
def test_the_site_equals_the_naive_computation_after_several_tasks(selectors: str) -> None:
    base = nn.Linear(6, 9, dtype=torch.float64)
    site = GatedSite(base, Gated(rank=2, alpha=3.0, dropout=0.0, selectors=selectors))
    generator = torch.Generator().manual_seed(3)
    for task in range(4):
        site.grow()
        site.fresh(task)
        with torch.no_grad():
            for parameter in (site.down.weight, site.up.weight, site.trained_selectors):
                parameter.add_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    assert site.selector.shape == (4, 9)
    assert site.past_down.shape == (3, 2, 6)
    assert site.past_up.shape == (3, 2, 9)
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    down = torch.cat([site.past_down, site.down.weight[None]]).detach()
    up = torch.cat([site.past_up, site.up.weight.T[None]]).detach()
    selector = site.selector.detach().clone().requires_grad_()
    new_up = site.up.weight.detach().T.clone().requires_grad_()
    expected = base(x) + naive(x, down, torch.cat([up[:-1], new_up[None]]), selector, 1.5, True)
    found = site(x)
    assert relative(found, expected) <= BOUND
    found.square().sum().backward()
    expected.square().sum().backward()
    assert relative(site.up.weight.grad, new_up.grad.T) <= BOUND
    trained = selector.grad if selectors == "all" else selector.grad[-1:]
    assert relative(site.trained_selectors.grad, trained) <= BOUND


def test_the_start_of_a_stream_is_half_a_lora() -> None:
    """With one task, g = sigmoid(z): the zero LoRA has the other half."""
    one = tensors(1, 2, 6, 4)
    codes = (one["x"] @ one["down"].flatten(0, 1).T).unflatten(-1, (1, 2))
    keys = selector_keys(one["up"], one["selector"], 0.5)
    scores = torch.einsum("...tr,tr->...t", codes, keys)
    assert torch.allclose(gate_values(codes, keys), torch.sigmoid(scores), atol=1e-14)
    assert torch.equal(gate_values(codes, keys, zero_lora=False), torch.ones_like(scores))


def test_a_new_task_takes_its_share_before_any_step() -> None:
    """At the start of task n its B is 0, so its score is 0 and every older gate shrinks by Z / (Z + 1)."""
    three = tensors(3, 2, 6, 4)
    up = three["up"].detach().clone()
    up[-1] = 0
    codes = (three["x"] @ three["down"].flatten(0, 1).T).unflatten(-1, (3, 2))
    keys = selector_keys(up, three["selector"], 0.5)
    before, after = gate_values(codes[..., :2, :], keys[:2]), gate_values(codes, keys)
    total = 1 + torch.exp(torch.einsum("...tr,tr->...t", codes[..., :2, :], keys[:2])).sum(-1, keepdim=True)
    assert torch.allclose(after[..., :2], before * total / (total + 1), atol=1e-14)
    assert torch.allclose(after[..., 2:], 1 / (total + 1), atol=1e-14)


def test_no_activation_of_tasks_times_tokens_times_outputs_is_kept() -> None:
    tasks, rank, tokens, width = 12, 2, 64, 48
    site = GatedSite(nn.Linear(width, width), Gated(rank=rank, dropout=0.0))
    for task in range(tasks):
        site.grow()
        site.fresh(task)
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
    gates = gate_values(codes, keys, zero_lora=zero_lora)
    assert (gates >= 0).all()
    total = gates.sum(-1)
    assert torch.allclose(total, torch.ones_like(total)) if not zero_lora else (total <= 1 + 1e-12).all()


def test_half_precision_scores_are_raised() -> None:
    codes = torch.full((1, 2, 1), 200.0, dtype=torch.float16)
    gates = gate_values(codes, torch.full((2, 1), 200.0, dtype=torch.float16).float().half())
    assert gates.dtype == torch.float16
    assert gates.isfinite().all()


@pytest.mark.parametrize(
    ("f", "a", "b", "x", "without", "with_b"),
    [
        (lambda v: torch.sin(v), [[1.0, 0.0]], [[0.0, -1.0]], [math.pi / 2, math.pi], [1.0], [-1.0]),
        (
            lambda v: torch.tensor([[1.0, 1.0], [0.0, -1.0]], dtype=torch.float64) @ v,
            [[1.0, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 1.0]],
            [1.0, -1.0],
            [1.0, 0.0],
            [0.0, 1.0],
        ),
    ],
)
def test_orthogonal_parameters_do_not_make_equal_outputs(f, a, b, x, without, with_b) -> None:
    """The paper's counter-examples (appendix 7.4), by number."""
    a, b, x = (torch.tensor(values, dtype=torch.float64) for values in (a, b, x))
    assert (a @ b.T).abs().max() == 0
    assert torch.allclose(f(a @ x), torch.tensor(without, dtype=torch.float64))
    assert torch.allclose(f((a + b) @ x), torch.tensor(with_b, dtype=torch.float64))
