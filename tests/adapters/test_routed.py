"""Slots that answer row by row, alone or weighted: the equation, its gradients, and the ends, one slot and none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import perturb, tiny_host
from nacre.adapters.adapter import Adapter
from nacre.adapters.bottleneck import Bottleneck
from nacre.adapters.gated import Gated
from nacre.adapters.low_rank import LowRank, LowRankSite, PlacedLowRank
from nacre.adapters.route import Route
from nacre.adapters.svd import Svd
from nacre.errors import ModelError
from nacre.functional.segments import NONE, Segments
from nacre.functional.sensitivity import Triplets

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
    site.rows = weights
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
    site.rows = torch.eye(SLOTS + 1, SLOTS, dtype=torch.float64)
    found = site(x)
    down, up = site.slots.all_pairs()
    for slot in range(SLOTS):
        alone = site.base(x[slot]) + site.scale * x[slot] @ down[slot].T @ up[slot]
        assert torch.allclose(found[slot], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[-1], site.untouched(x)[-1])


# One slot a row


NUMBERS = (2, NONE, 0, 2)


def with_origins(kind: str, seed: int = 0) -> LowRankSite:
    """Each later slot counts from a start of its own."""
    torch.manual_seed(seed)
    settings = replace(KINDS[kind], from_start=True)
    site = settings.site(nn.Linear(D_IN, D_OUT, dtype=torch.float64).requires_grad_(False))
    assert isinstance(site, LowRankSite)
    for slot in range(SLOTS):
        site.grow()
        sigma = drawn(RANK, seed=77 + slot) if kind == "svd" else None
        site.write(Triplets(drawn(RANK, D_IN, seed=70 + slot), drawn(RANK, D_OUT, seed=80 + slot), sigma))
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                tensor.add_(drawn(*tensor.shape, seed=10 * slot + number))
    return site


def with_branch(kind: str, seed: int = 0) -> LowRankSite:
    """Each later slot lies on a branch that has taken the earlier ones in."""
    if kind == "svd":
        pytest.skip("its slots have no branch")
    torch.manual_seed(seed)
    site = replace(KINDS[kind], branch=True).site(nn.Linear(D_IN, D_OUT, dtype=torch.float64).requires_grad_(False))
    assert isinstance(site, LowRankSite)
    for slot in range(SLOTS):
        site.grow()
        site.write(Triplets(drawn(RANK, D_IN, seed=70 + slot), drawn(RANK, D_OUT, seed=80 + slot), None))
    assert site.slots.branch_down[:-1].any()
    return site


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [site_of, with_origins, with_branch])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_own_slot_is_the_mixture_of_that_slot_alone(
    kind: str, make: Callable[[str], LowRankSite], training: bool, copies: int
) -> None:
    """With all gradients, in float64; a beam's copies of a row stand side by side."""
    site = make(kind).train(training)
    x = drawn(ROWS * copies, 6, D_IN, seed=91).requires_grad_()
    segments = Segments(NUMBERS)
    weights = Route(slots=torch.tensor(NUMBERS)).as_weights(SLOTS)
    assert weights is not None
    assert weights.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    results = []
    for rows in (weights, segments):
        site.rows = rows
        found = site(x)
        slope = drawn(*found.shape, seed=93)
        results.append([found, *torch.autograd.grad(found, [x, *site.parameters_by_group().values()], slope)])
    assert torch.equal(results[1][0][copies : 2 * copies], site.untouched(x)[copies : 2 * copies])
    for expected, ours in zip(*results, strict=True):
        assert expected.any()
        assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_the_newest_slot_is_training_one_that_stands_alone(kind: str, autocast: bool) -> None:
    """Output and gradients to the bit, dropout included: earlier slots have no part in it."""
    results = []
    for earlier in (0, 2):
        torch.manual_seed(0)
        site = replace(KINDS[kind], dropout=0.4).site(nn.Linear(D_IN, D_OUT).requires_grad_(False)).train()
        assert isinstance(site, LowRankSite)
        for _ in range(earlier):
            site.grow()
            site.fresh(0)
            with torch.no_grad():
                site.slots.up.weight.fill_(1.0)
        site.grow()
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                tensor.copy_(drawn(*tensor.shape, seed=number))
        site.rows = Segments((earlier,) * ROWS) if earlier else None
        torch.manual_seed(1)
        x = drawn(ROWS, 6, D_IN, seed=91).float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = site(x)
        found.float().square().sum().backward()
        results.append([found, x.grad, *(parameter.grad for parameter in site.parameters_by_group().values())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("numbers", [(0, 0, 0, 0), (1, 0, NONE, 1), (0, 1, 1, 1)])
@pytest.mark.parametrize("make", [site_of, with_origins])
@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_answers_with_the_same_bits_when_others_have_come(
    kind: str, make: Callable[[str], LowRankSite], numbers: tuple[int, ...]
) -> None:
    site, x = make(kind).float(), drawn(ROWS, 6, D_IN, seed=91).float()
    stacks = site.slots
    last = len(stacks) - 1
    site.eval()
    site.rows = Segments(tuple(slot if slot == NONE else slot + last - 1 for slot in numbers))
    before = site(x)
    site.grow()
    site.fresh(3)
    site.freeze()
    assert torch.equal(site(x), before)


def test_slots_that_answer_no_row_have_no_part_in_a_step() -> None:
    """Earlier slots have no gradient at all; the newest, which is trained, has one of zeros."""
    site = site_of("lora").train()
    x = drawn(ROWS, 6, D_IN, seed=91).requires_grad_()
    site.rows = Segments((0, NONE, 0, 1))
    before = {name: tensor.clone() for name, tensor in site.public_tensors().items()}
    site(x).square().sum().backward()
    assert not site.slots.past_down.requires_grad
    for parameter in site.parameters_by_group().values():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    torch.optim.SGD(site.parameters_by_group().values(), lr=1.0, momentum=0.9).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in site.public_tensors().items())


def test_a_step_of_a_mixed_batch_is_the_sum_of_the_slots_own() -> None:
    """Gradients of the earlier slots too, where they are leaves."""
    site, x = site_of("lora").train(), drawn(ROWS, 6, D_IN, seed=91)
    numbers = (2, 0, 1, 2)

    def gradients(rows: list[int]) -> list[Tensor]:
        site.rows = Segments(tuple(numbers[row] for row in rows))
        with site.past_open() as past:
            leaves = [*past.values(), *site.parameters_by_group().values()]
            return list(torch.autograd.grad(site(x[rows]).square().sum(), leaves, materialize_grads=True))

    together = gradients([0, 1, 2, 3])
    apart = [gradients([0, 3]), gradients([1]), gradients([2])]
    for found, *own in zip(together, *apart, strict=True):
        assert found.any()
        assert (found - sum(own)).abs().max() <= 1e-12 * found.abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_who_measures_the_newest_factors_sees_all_rows(training: bool) -> None:
    site, x = site_of("lora").train(training), drawn(ROWS, 6, D_IN, seed=91)
    site.rows = Segments(NUMBERS)
    expected = site(x)
    seen: list[Tensor] = []
    handle = site.slots.down.register_forward_hook(lambda module, args, output: seen.append(output))
    found = site(x)
    handle.remove()
    assert [list(each.shape) for each in seen] == [[ROWS, 6, RANK]]
    assert (found - expected).abs().max() <= 1e-13


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
        site.rows = torch.tensor([weights])
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
    with placed.use(Route(slots=torch.tensor([0, NONE]))):
        chosen = states()
    with placed.use(Route(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))):
        torch.testing.assert_close(chosen, states(), rtol=1e-4, atol=1e-5)
    assert torch.equal(chosen[1], bare[1])
    assert not torch.allclose(chosen[0], bare[0], atol=1e-3)
    assert torch.allclose(mixed[0], summed[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(mixed[1], bare[1])
    assert torch.equal(states(), summed)
    with pytest.raises(RuntimeError, match="stop"), placed.use(Route(torch.zeros(2, 2))):
        raise RuntimeError("stop")
    assert torch.equal(states(), summed)


@pytest.mark.parametrize("adapter", [LowRank(2, 4.0, 0.0), LowRank(2, slots="shared"), Bottleneck(reduction=2)])
def test_offsets_of_scores_are_for_gated_adapters(adapter: Adapter) -> None:
    _, placed = placed_in("llama", adapter)
    with pytest.raises(ModelError, match="no gates whose scores a route could offset"):
        placed.use(Route(score_offsets=torch.zeros(2, 3))).__enter__()


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
    with pytest.raises(ModelError, match="names one slot for each row, or weights of all slots, and not both"):
        Route(torch.zeros(2, 2), slots=torch.zeros(2, dtype=torch.long))
    for slots, said in (
        (torch.tensor([0, 2]), r"chooses slot 2, and the open slots are 0 to 1; -1 is none"),
        (torch.tensor([-2, 0]), "chooses slot -2"),
        (torch.tensor([0.0, 1.0]), r"whole numbers \[rows\]; given were \[2\] of torch.float32"),
        (torch.tensor([[0, 1]]), r"given were \[1, 2\] of torch.int64"),
    ):
        with pytest.raises(ModelError, match=said):
            placed.use(Route(slots=slots)).__enter__()
    with (
        placed.use(Route(slots=torch.tensor([0, 1, 0]))),
        pytest.raises(ModelError, match=r"for 3 rows, and a linear map is to answer an input of shape \[2, 4, 16\]"),
    ):
        model(input_ids=torch.tensor([[3, 5, 8, 13], [4, 6, 9, 7]]))
    empty = LowRank(2, 4.0, 0.0).place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="Slots were chosen for rows, and no slot has been opened yet"):
        empty.use(Route(slots=torch.zeros(2, dtype=torch.long))).__enter__()
    with pytest.raises(ModelError, match="no slot has been opened yet"):
        empty.use(Route(torch.zeros(2, 0))).__enter__()
    shared = LowRank(2, 4.0, 0.0, slots="shared").place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="All tasks share one slot here"):
        shared.use(Route(torch.zeros(2, 1))).__enter__()
    gated = Gated(2, 4.0).place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="A gated adapter weights its slots itself"):
        gated.use(Route(torch.zeros(2, 1))).__enter__()
    assert isinstance(placed, PlacedLowRank)
