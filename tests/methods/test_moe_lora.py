"""MoELoRA: the mixture against a token-by-token loop in float64, and its degenerate cases."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from helpers.contract import state_of
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.experts import Experts, ExpertsSite
from nacre.adapters.low_rank import LowRank
from nacre.adapters.route import Route
from nacre.errors import ModelError, RecipeError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.moe_lora import moe_lora
from nacre.methods.seq_lora import seq_lora

D_IN, D_OUT, RANK, EXPERTS = 7, 5, 2, 3
OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task("animals"), tiny_task("birds")]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def site_of(experts: int = EXPERTS, dtype: torch.dtype = torch.float64) -> ExpertsSite:
    torch.manual_seed(0)
    settings = Experts(RANK, 3.0, 0.0, experts=experts)
    site = settings.site(nn.Linear(D_IN, D_OUT, dtype=dtype).requires_grad_(False))
    site.grow()
    with torch.no_grad():
        for number, tensor in enumerate(site.parameters_by_group().values()):
            tensor.copy_(drawn(*tensor.shape, seed=number))
    return site


def naive(site: ExpertsSite, x: Tensor, down: Tensor, up: Tensor, router: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    tokens = []
    for token in x.reshape(-1, D_IN):
        scores = [float(0) + row @ token for row in router]
        total = torch.stack(scores).exp().sum()
        y = site.base(token)
        for expert, score in enumerate(scores):
            own = slice(expert * RANK, (expert + 1) * RANK)
            y = y + score.exp() / total * (3.0 / RANK) * (up[:, own] @ (down[own] @ token))
        tokens.append(y)
    return torch.stack(tokens).view(*x.shape[:-1], D_OUT)


@pytest.mark.parametrize("between", [(), (6,), (2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_the_mixture_and_its_gradients_against_a_loop(between: tuple[int, ...], training: bool) -> None:
    site = site_of().train(training)
    x = drawn(4, *between, D_IN, seed=91).requires_grad_()
    own = [tensor.detach().clone().requires_grad_() for tensor in site.parameters_by_group().values()]
    expected = naive(site, x, *own)
    slope = drawn(*expected.shape, seed=93)
    expected_gradients = torch.autograd.grad(expected, [x, *own], slope)
    found = site(x)
    gradients = torch.autograd.grad(found, [x, *site.parameters_by_group().values()], slope)
    assert (found - expected).abs().max() <= 1e-12
    for one, other in zip(expected_gradients, gradients, strict=True):
        assert one.any()
        assert (one - other).abs().max() <= 1e-12 * one.abs().max().clamp(min=1)


def test_a_router_of_zeros_is_one_lora_of_all_ranks_with_the_scale_shared() -> None:
    site, x = site_of(), drawn(4, 6, D_IN, seed=91)
    with torch.no_grad():
        site.router.zero_()
    wide = LowRank(RANK * EXPERTS, 3.0, 0.0, slots="shared").site(copy.deepcopy(site.base))
    wide.grow()
    with torch.no_grad():
        for group, tensor in wide.parameters_by_group().items():
            tensor.copy_(site.parameters_by_group()[group])
    assert math.isclose(wide.scale, site.scale / EXPERTS)
    assert torch.allclose(site(x), wide(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_one_expert_is_one_lora(architecture: str) -> None:
    """Through two tasks, in float64; the router then gets no gradient and stays where it is."""

    def learned(method: Method) -> Learner:
        learner = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=OPTIM)
        for task in TASKS:
            learner.learn(task)
        return learner

    ours, theirs = learned(moe_lora(experts=1)), learned(seq_lora())
    one, other = state_of(ours), state_of(theirs)
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-8, atol=1e-8)
    assert all(not one[name].any() for name in one if name.endswith("router"))
    assert ours.answer(TASKS) == theirs.answer(TASKS)


def test_the_router_is_float32_in_a_host_of_half_precision_and_under_autocast() -> None:
    """Its scores differ by less than bfloat16 can tell; rounded to bfloat16 both tokens would get one gate."""
    settings = Experts(RANK, 3.0, 0.0, experts=2)
    site = settings.site(nn.Linear(2, D_OUT, dtype=torch.bfloat16).requires_grad_(False))
    assert isinstance(site, ExpertsSite)
    site.grow()
    site.fresh(0)
    with torch.no_grad():
        site.router.copy_(torch.tensor([[100.0, 0.125], [0.0, 0.0]]))
        site.slots.up.weight.fill_(1.0)
    seen: list[Tensor] = []
    site.slots.up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = torch.tensor([[1e-2, 0.0], [1e-2, 0.5]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        site(x)
    site(x)
    gates = (x.float() @ site.router.T).softmax(-1)
    codes = x.float() @ site.slots.down.weight.T
    expected = codes * gates.repeat_interleave(RANK, -1)
    torch.testing.assert_close(seen[1], expected.detach(), rtol=1e-6, atol=1e-9)
    assert site.router.dtype == torch.float32


def test_experts_are_told_apart_after_learning() -> None:
    learner = Learner(tiny_host("t5"), moe_lora(experts=3), seed=5, optim=OPTIM)
    learner.learn(TASKS[0])
    perturb(learner.host.model)
    sites = learner.adapter.sites.values()  # type: ignore[attr-defined]
    assert all(site.router.abs().max() > 0 for site in sites)
    assert learner.traits["task boundaries in training"] is False
    assert learner.traits["task identity at test"] is False
    assert learner.traits["grows with tasks"] is False
    sizes = learner.stored_parameters()
    learner.learn(TASKS[1])
    assert learner.stored_parameters() == sizes


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="experts: 0 is not a positive number"):
        moe_lora(experts=0)
    with pytest.raises(RecipeError, match="all tasks share the experts"):
        Experts(2, 4.0, slots="per_task")
    learner = Learner(tiny_host("t5"), moe_lora(), seed=5, optim=OPTIM)
    learner.learn(TASKS[0])
    with pytest.raises(ModelError, match="no routing can do so from outside"), learner.under(Route(torch.ones(1, 1))):
        pass
