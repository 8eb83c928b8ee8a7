"""Bottleneck adapters: the equation and its gradients, where they stand, and how they begin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tiny import ARCHITECTURES, outputs, tiny_host, tiny_task
from nacre.adapters.bottleneck import Bottleneck, BottleneckSite
from nacre.adapters.route import Route
from nacre.errors import ModelError, RecipeError
from nacre.functional.bottleneck import Nonlinearity
from nacre.functional.segments import NONE, Segments
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method

D_IN, D_OUT, SLOTS, ROWS = 5, 6, 3, 4
NAIVE = {"gelu": F.gelu, "relu": lambda x: x * (x > 0), "silu": lambda x: x / (1 + (-x).exp())}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def site_of(nonlinearity: Nonlinearity, slots: int = SLOTS) -> BottleneckSite:
    torch.manual_seed(0)
    base = nn.Linear(D_IN, D_OUT, dtype=torch.float64).requires_grad_(False)
    site = BottleneckSite(base, Bottleneck(2, nonlinearity, slots="per_task"))
    for slot in range(slots):
        site.grow()
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                tensor.copy_(drawn(*tensor.shape, seed=10 * slot + number))
    return site


def one(h: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, nonlinearity: str) -> Tensor:
    """One token, h [d], by loops over units."""
    codes = torch.stack(
        [NAIVE[nonlinearity]((row * h).sum() + bias) for row, bias in zip(down, down_bias, strict=True)]
    )
    return torch.stack([(row * codes).sum() + bias for row, bias in zip(up, up_bias, strict=True)])


def adapters_of(site: BottleneckSite, newest: list[Tensor]) -> list[list[Tensor]]:
    slots = site.slots
    past = zip(slots.past_down, slots.past_down_bias, slots.past_up.mT, slots.past_up_bias, strict=True)
    return [*map(list, past), newest]


@pytest.mark.parametrize("nonlinearity", NAIVE)
def test_the_newest_slot_alone_is_the_equation(nonlinearity: Nonlinearity) -> None:
    site, x = site_of(nonlinearity), drawn(ROWS, D_IN, seed=91).requires_grad_()
    newest = [tensor.detach().clone().requires_grad_() for tensor in site.parameters_by_group().values()]
    expected = torch.stack([(h := site.base(row)) + one(h, *newest, nonlinearity) for row in x])
    slope = drawn(*expected.shape, seed=93)
    expected_gradients = torch.autograd.grad(expected, [x, *newest], slope)
    found = site(x)
    gradients = torch.autograd.grad(found, [x, *site.parameters_by_group().values()], slope)
    assert (found - expected).abs().max() <= 1e-12
    for theirs, ours in zip(expected_gradients, gradients, strict=True):
        assert theirs.any()
        assert (theirs - ours).abs().max() <= 1e-12 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("slots", [1, SLOTS])
@pytest.mark.parametrize("between", [(), (3,), (2, 3)])
def test_rows_are_answered_by_their_own_mixture(between: tuple[int, ...], slots: int) -> None:
    """Row by row and slot by slot, with the gradients of the newest slot and of the weights; a row stands twice."""
    site, x = site_of("gelu", slots), drawn(2 * ROWS, *between, D_IN, seed=91)
    weights = drawn(ROWS, slots, seed=92).requires_grad_()
    newest = [tensor.detach().clone().requires_grad_() for tensor in site.parameters_by_group().values()]
    rows = []
    for number, row in enumerate(x):
        tokens = []
        for token in row.reshape(-1, D_IN):
            h = site.base(token)
            parts = zip(weights[number // 2], adapters_of(site, newest), strict=True)
            tokens.append(h + sum(weight * one(h, *adapter, "gelu") for weight, adapter in parts))
        rows.append(torch.stack(tokens).reshape(*between, D_OUT))
    expected = torch.stack(rows)
    slope = drawn(*expected.shape, seed=93)
    expected_gradients = torch.autograd.grad(expected, [weights, *newest], slope)
    site.rows = weights
    found = site(x)
    gradients = torch.autograd.grad(found, [weights, *site.parameters_by_group().values()], slope)
    assert (found - expected).abs().max() <= 1e-12
    for theirs, ours in zip(expected_gradients, gradients, strict=True):
        assert (theirs - ours).abs().max() <= 1e-12 * theirs.abs().max().clamp(min=1)


def test_the_newest_slot_by_weights_is_the_newest_slot_bit_for_bit() -> None:
    site, x = site_of("gelu"), drawn(ROWS, 3, D_IN, seed=91)
    alone = site(x)
    site.rows = torch.tensor([[0.0, 0.0, 1.0]]).repeat(ROWS, 1)
    assert torch.equal(site(x), alone)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_rows_own_slot_is_the_mixture_of_that_slot_alone(training: bool, copies: int) -> None:
    """With all gradients; a row without a slot has the bits of the host."""
    numbers = (2, NONE, *(0, 2) * (ROWS // 2))[:ROWS]
    site, x = site_of("gelu").train(training), drawn(ROWS * copies, 3, D_IN, seed=91).requires_grad_()
    weights = Route(slots=torch.tensor(numbers)).as_weights(3)
    assert weights is not None
    results = []
    for rows in (weights.double(), Segments(numbers)):
        site.rows = rows
        found = site(x)
        slope = drawn(*found.shape, seed=93)
        results.append([found, *torch.autograd.grad(found, [x, *site.parameters_by_group().values()], slope)])
    assert torch.equal(results[1][0][copies : 2 * copies], site.untouched(x)[copies : 2 * copies])
    for expected, ours in zip(*results, strict=True):
        assert expected.any()
        assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_training_under_the_newest_slot_is_training_it_alone() -> None:
    """To the bit; and where it answers no row, its gradients are zeros."""
    site, x = site_of("gelu").train(), drawn(ROWS, 3, D_IN, seed=91)
    results = []
    for rows in (None, Segments((2,) * ROWS), Segments((1,) * ROWS)):
        site.rows = rows
        found = site(x)
        results.append([found, *torch.autograd.grad(found.square().sum(), [*site.parameters_by_group().values()])])
    assert all(torch.equal(*pair) for pair in zip(*results[:2], strict=True))
    assert not any(gradient.any() for gradient in results[2][1:])


def test_a_slot_answers_with_the_same_bits_when_another_has_come() -> None:
    site, x = site_of("gelu").float().eval(), drawn(ROWS, 3, D_IN, seed=91).float()
    site.rows = Segments((2, 0, *(2,) * ROWS)[:ROWS])
    before = site(x)
    site.grow()
    site.fresh(3)
    assert torch.equal(site(x), before)


def test_a_copy_without_tasks_keeps_the_slot_of_its_route() -> None:
    for number in (0, 1, 2, NONE):
        site, x = site_of("gelu"), drawn(ROWS, 3, D_IN, seed=91)
        site.rows = Segments((number,) * ROWS)
        expected = site(x)
        site.settle()
        assert site.rows is None
        assert len(site.slots) == (number != NONE)
        torch.testing.assert_close(site(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_stand_behind_attention_and_feed_forward_and_begin_as_nothing(architecture: str) -> None:
    """U = 0: not a bit of what the host computes changes. One adapter behind each block, of 2 m d + d + m numbers."""
    host = tiny_host(architecture)
    family = host.family
    rows = [family.encode(example, Learner(tiny_host(architecture), build_method("seq_ft")).lengths) for example in
            tiny_task().examples("test")]  # fmt: skip
    inputs = family.prompts(rows)
    if family.name == "encoder-decoder":
        inputs = inputs.extended(decoder_input_ids=torch.ones_like(inputs["input_ids"]))
    bare = outputs(host, inputs)
    placed = Bottleneck(4).place(host.body)
    placed.grow()
    placed.fresh(3)
    assert torch.equal(outputs(host, inputs), bare)
    blocks = 2 + 3 if family.name == "encoder-decoder" else 2  # its decoder also attends to the encoder
    assert len(placed.sites) == 2 * blocks
    assert {site.d_out for site in placed.sites.values()} == {16}
    assert sum(group.size for group in placed.parameter_groups()) == 2 * blocks * (2 * 4 * 16 + 16 + 4)
    with torch.no_grad():
        for site in placed.sites.values():
            site.slots.up.bias.add_(0.1)
    assert not torch.equal(outputs(host, inputs), bare)
    placed.remove()
    near = Bottleneck(4, start="near_identity").place(host.body)
    near.grow()
    near.fresh(3)
    values = torch.cat([site.slots.up.weight.flatten() for site in near.sites.values()])
    assert 0.007 < values.std() < 0.01, "a normal distribution of 0.01, cut at two deviations, has 0.0088"
    assert values.abs().max() <= 0.02
    assert 0 < (outputs(host, inputs) - bare).abs().max() < 0.1


def test_the_adapter_comes_before_the_residual_addition() -> None:
    """RoBERTa adds and normalizes behind the map: a bias of the adapter's acts as a bias of the map's would."""
    inputs = {"input_ids": torch.tensor([[3, 5, 8, 1]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    host, other = tiny_host("roberta"), tiny_host("roberta")
    placed = Bottleneck(4).place(host.body)
    placed.grow()
    with torch.no_grad():
        for name, site in placed.sites.items():
            site.slots.up.bias.fill_(0.5)
            bias = other.body.get_submodule(name).bias
            assert isinstance(bias, Tensor)
            bias.add_(0.5)
    assert torch.allclose(outputs(host, inputs), outputs(other, inputs), atol=1e-5)


def test_a_bottleneck_has_no_one_weight() -> None:
    learner = Learner(tiny_host("llama"), build_method("adapter", {"reduction": 4}), optim=Optim(batch_size=4))
    learner.learn(tiny_task())
    assert not learner.traits["foldable"]
    with pytest.raises(ModelError, match="adapter answers in a way that depends on the input, and no one weight"):
        learner.merged()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="reduction: 0 is not a positive number"):
        Bottleneck(0)
    placed = Bottleneck(4).place(tiny_host("llama").body)
    placed.grow()
    with pytest.raises(ModelError, match="All tasks share one slot"), placed.use(Route(torch.ones(2, 1))):
        pass
    with pytest.raises(ModelError, match="no prompts"), placed.use(Route(prompts=torch.zeros(2, 1))):
        pass
    with placed.use(Route()):
        pass
