"""Slots weighted row by row: the equation, its gradients, and the two ends, one slot alone and none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import perturb, tiny_host
from nacre.adapters.gated import Gated
from nacre.adapters.low_rank import LowRank, LowRankSite, PlacedLowRank
from nacre.adapters.route import Route
from nacre.adapters.svd import Svd
from nacre.errors import ModelError

D_IN, D_OUT, RANK, SLOTS, ROWS = 7, 5, 2, 3, 4
KINDS = {"lora": LowRank(RANK, 3.0, 0.0), "svd": Svd(RANK, 3.0, 0.0)}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def site_of(kind: str) -> LowRankSite:
    torch.manual_seed(0)
    site = KINDS[kind].site(nn.Linear(D_IN, D_OUT, dtype=torch.float64).requires_grad_(False))
    assert isinstance(site, LowRankSite)
    for slot in range(SLOTS):
        site.grow()
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                tensor.copy_(drawn(*tensor.shape, seed=10 * slot + number))
    return site


def naive(site: LowRankSite, x: Tensor, weights: Tensor, newest: list[Tensor]) -> Tensor:
    """Row by row, slot by slot."""
    past = list(zip(*site.past_by_group().values(), strict=True))
    rows = []
    for row, row_weights in zip(x, weights, strict=True):
        y = site.base(row)
        for slot, weight in enumerate(row_weights):
            down, up, *sigma = past[slot] if slot < len(past) else (newest[0], newest[1].T, *newest[2:])
            code = row @ down.T
            y = y + weight * site.scale * (code * sigma[0] if sigma else code) @ up
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize("between", [(), (6,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_rows_are_answered_as_the_equation_says(kind: str, between: tuple[int, ...], training: bool) -> None:
    """In float64, with all gradients: of the input, the weights and the newest slot."""
    site = site_of(kind).train(training)
    x, weights = drawn(ROWS, *between, D_IN, seed=91), drawn(ROWS, SLOTS, seed=92)
    x, weights = x.requires_grad_(), weights.requires_grad_()
    newest = [tensor.detach().clone().requires_grad_() for tensor in site.parameters_by_group().values()]
    expected = naive(site, x, weights, newest)
    slope = drawn(*expected.shape, seed=93)
    expected_gradients = torch.autograd.grad(expected, [x, weights, *newest], slope)
    site.row_weights = weights
    found = site(x)
    gradients = torch.autograd.grad(found, [x, weights, *site.parameters_by_group().values()], slope)
    assert (found - expected).abs().max() <= 1e-12
    for one, other in zip(expected_gradients, gradients, strict=True):
        assert one.any()
        assert (one - other).abs().max() <= 1e-12 * one.abs().max().clamp(min=1)


@pytest.mark.parametrize("kind", KINDS)
def test_one_slot_alone_and_none(kind: str) -> None:
    """A one-hot row is that slot's plain LoRA, a row of zeros the bare map, bit for bit."""
    site, x = site_of(kind).eval(), drawn(SLOTS + 1, 6, D_IN, seed=91)
    site.row_weights = torch.eye(SLOTS + 1, SLOTS, dtype=torch.float64)
    found = site(x)
    down, up = site.slots.all_pairs()
    for slot in range(SLOTS):
        alone = site.base(x[slot]) + site.scale * x[slot] @ down[slot].T @ up[slot]
        assert torch.allclose(found[slot], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[-1], site.untouched(x)[-1])


def test_only_the_newest_slot_sees_dropout() -> None:
    site = LowRank(RANK, 3.0, 0.5).site(nn.Linear(D_IN, D_OUT).requires_grad_(False)).train()
    assert isinstance(site, LowRankSite)
    for slot in range(2):
        site.grow()
        site.fresh(slot)
        with torch.no_grad():
            site.slots.up.weight.fill_(1.0)
    x = torch.ones(1, D_IN)
    for weights, varies in (([1.0, 0.0], False), ([0.0, 1.0], True)):
        site.row_weights = torch.tensor([weights])
        answers = [site(x) for _ in range(8)]
        assert all(torch.equal(answer, answers[0]) for answer in answers) != varies


def placed_in(architecture: str, settings: Any) -> tuple[nn.Module, Any]:
    host = tiny_host(architecture)
    placed = settings.place(host.body)
    for seed in range(2):
        placed.grow()
        placed.fresh(seed)
        perturb(host.model, seed)
    placed.freeze()
    return host.body, placed


@pytest.mark.parametrize("settings", [LowRank(2, 4.0, 0.0), Svd(2, None, 0.0)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "roberta"])
def test_a_host_answers_each_row_by_its_own_weights(architecture: str, settings: Any) -> None:
    """All of every slot is the sum as usual, none is the bare host, and what was there before comes back."""
    model, placed = placed_in(architecture, settings)
    ids = torch.tensor([[3, 5, 8, 13], [4, 6, 9, 7]])

    @torch.no_grad()
    def states() -> Tensor:
        found: Tensor = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        return found

    summed = states()
    with placed.bypassed():
        bare = states()
    assert not torch.allclose(summed, bare, atol=1e-3)
    with placed.use(Route(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))):
        mixed = states()
        with placed.use(Route()):
            assert torch.equal(states(), summed)
        with placed.bypassed():
            assert torch.equal(states(), bare)
        assert torch.equal(states(), mixed)
    assert torch.allclose(mixed[0], summed[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(mixed[1], bare[1])
    assert torch.equal(states(), summed)
    with pytest.raises(RuntimeError, match="stop"), placed.use(Route(torch.zeros(2, 2))):
        raise RuntimeError("stop")
    assert torch.equal(states(), summed)


def test_weights_that_do_not_fit_are_refused() -> None:
    model, placed = placed_in("llama", LowRank(2, 4.0, 0.0))
    with pytest.raises(ModelError, match=r"numbers \[rows, 2\], one for each open slot; given were \[2, 3\]"):
        placed.use(Route(torch.zeros(2, 3))).__enter__()
    with pytest.raises(ModelError, match=r"given were \[2, 2\] of torch.int64"):
        placed.use(Route(torch.zeros(2, 2, dtype=torch.long))).__enter__()
    with (
        placed.use(Route(torch.zeros(3, 2))),
        pytest.raises(ModelError, match=r"for 3 rows, and a linear map is to answer an input of shape \[2, 4, 16\]"),
    ):
        model(input_ids=torch.tensor([[3, 5, 8, 13], [4, 6, 9, 7]]))
    empty = LowRank(2, 4.0, 0.0).place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="no slot has been opened yet"):
        empty.use(Route(torch.zeros(2, 0))).__enter__()
    shared = LowRank(2, 4.0, 0.0, slots="shared").place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="All tasks share one slot here"):
        shared.use(Route(torch.zeros(2, 1))).__enter__()
    gated = Gated(2, 4.0).place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="A gated adapter weights its slots itself"):
        gated.use(Route(torch.zeros(2, 1)))
    assert isinstance(placed, PlacedLowRank)
