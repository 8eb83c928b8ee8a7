"""A site's sum of LoRAs against naive float64 computations, which share no code with it: in rank space, folded, and
with the newest one added by the hand-written backward pass. Values and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.adapters.svd import Svd
from nacre.functional.fused_low_rank import fused_update
from nacre.functional.low_rank import folded_weight, summed_update

D_IN, D_OUT, RANK, SCALE = 48, 40, 4, 2.0


def drawn(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def tensors(tokens: tuple[int, ...] = (3, 5)) -> dict[str, Tensor]:
    return {
        "x": drawn(*tokens, D_IN, seed=1),
        "seen": drawn(*tokens, D_IN, seed=2),
        "down": drawn(RANK, D_IN, seed=3, size=0.3),
        "up": drawn(D_OUT, RANK, seed=4, size=0.3),
        "weight": drawn(D_OUT, D_IN, seed=5, size=0.2),
        "bias": drawn(D_OUT, seed=6),
    }


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    errors = [(found[k].double() - expected[k]).abs().max() / expected[k].abs().max() for k in found]
    return max(error.item() for error in errors)


# The function


def fused(t: dict[str, Tensor], shared: bool, with_bias: bool) -> Tensor:
    seen = t["x"] if shared else t["seen"]
    codes = (seen @ t["down"].T).detach()
    bias = t["bias"] if with_bias else None
    return fused_update(t["x"], seen, codes, t["down"], t["up"], t["weight"], bias, scale=SCALE)


def naive(t: dict[str, Tensor], shared: bool, with_bias: bool) -> Tensor:
    y = torch.einsum("...i,oi->...o", t["x"], t["weight"])
    for column, row in zip(t["up"].T, t["down"], strict=True):
        y = y + SCALE * (t["x" if shared else "seen"] * row).sum(-1, keepdim=True) * column
    return y + t["bias"] if with_bias else y


def value_and_gradients(
    function: Any, t: dict[str, Tensor], *options: bool, names: tuple[str, ...] = ("x", "seen", "down", "up")
) -> dict[str, Tensor]:
    leaves = t | {name: t[name].clone().requires_grad_() for name in names}
    value = function(leaves, *options)
    weights = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape).to(value)
    (value * weights).sum().backward()
    return {"value": value.detach()} | {name: leaves[name].grad for name in names if leaves[name].grad is not None}


@pytest.mark.parametrize("tokens", [(3, 5), (1,), (2, 7, 3)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_values_and_gradients(shared: bool, with_bias: bool, tokens: tuple[int, ...]) -> None:
    t = tensors(tokens)
    expected = value_and_gradients(naive, t, shared, with_bias)
    assert ("seen" in expected) != shared
    assert worst(value_and_gradients(fused, t, shared, with_bias), expected) <= 1e-12
    single = {name: tensor.float() for name, tensor in t.items()}
    assert worst(value_and_gradients(fused, single, shared, with_bias), expected) <= 5e-6


@pytest.mark.parametrize("wanted", [("down",), ("up",), ("x",), ("seen", "up")])
def test_gradients_that_nobody_wants_are_not_made(wanted: tuple[str, ...]) -> None:
    shared = "seen" not in wanted
    whole = value_and_gradients(fused, tensors(), shared, True)
    found = value_and_gradients(fused, tensors(), shared, True, names=wanted)
    assert found.keys() == {"value", *wanted}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())


def test_a_step_before_the_backward_pass_is_noticed() -> None:
    t = tensors()
    leaves = t | {name: t[name].clone().requires_grad_() for name in ("x", "down", "up")}
    value = fused(leaves, True, False)
    with torch.no_grad():
        leaves["down"] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_the_input_and_the_codes_are_all_that_is_kept() -> None:
    t = {name: tensor.float() for name, tensor in tensors((64,)).items()}
    leaves = t | {name: t[name].clone().requires_grad_() for name in ("x", "down", "up")}
    own = {tensor.data_ptr() for tensor in leaves.values()}
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused(leaves, True, True)
    assert kept == [4 * 64 * RANK]


# The site


def site_of(
    tasks: int, kind: str = "lora", dtype: torch.dtype = torch.float64, dropout: float = 0.0, conv: bool = False
) -> LowRankSite:
    """The same numbers in every type, so that float32 can be held against float64; the past is folded."""
    base: nn.Module = Conv1D(D_OUT, D_IN) if conv else nn.Linear(D_IN, D_OUT)
    base = base.double().requires_grad_(False)
    base.weight.copy_(drawn(*base.weight.shape, seed=5, size=0.2))
    base.bias.copy_(drawn(D_OUT, seed=6))
    base = base.to(dtype)
    alpha = SCALE * RANK
    site = (
        LowRankSite(base, Svd(RANK, alpha, dropout))
        if kind == "svd"
        else LowRankSite(base, LowRank(RANK, alpha, dropout))
    )
    for task in range(tasks):
        site.grow()
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                tensor.copy_(drawn(*tensor.shape, seed=10 * task + number, size=0.3))
    site.fold_past()
    return site


def naive_site(tasks: int, kind: str, conv: bool, x: Tensor, seen: Tensor, newest: list[Tensor]) -> Tensor:
    """Task by task in float64, from the numbers that ``site_of`` takes."""
    weight = drawn(D_IN, D_OUT, seed=5, size=0.2).T if conv else drawn(D_OUT, D_IN, seed=5, size=0.2)
    y = x @ weight.T + drawn(D_OUT, seed=6)
    shapes = [(RANK, D_IN), (D_OUT, RANK), (RANK,)]
    for task in range(tasks):
        own = [drawn(*shape, seed=10 * task + number, size=0.3) for number, shape in enumerate(shapes)]
        last = task == tasks - 1
        down, up, *sigma = newest if last else own[: len(newest)]
        codes = (seen if last else x) @ down.T
        y = y + SCALE * ((codes * sigma[0] if sigma else codes) @ up.T)
    return y


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("kind", ["lora", "svd"])
@pytest.mark.parametrize("tasks", [1, 2, 6, 51])
def test_a_site_against_loops_over_tasks(tasks: int, kind: str, conv: bool) -> None:
    x = drawn(3, 5, D_IN, seed=1)
    upstream = drawn(3, 5, D_OUT, seed=2)
    reference = site_of(tasks, kind, conv=conv)
    newest = [tensor.detach().clone().requires_grad_() for tensor in reference.parameters_by_group().values()]
    leaf = x.clone().requires_grad_()
    value = naive_site(tasks, kind, conv, leaf, leaf, newest)
    value.backward(upstream)
    expected = {"value": value.detach(), "x": leaf.grad} | {
        name: tensor.grad for name, tensor in zip(reference.parameters_by_group(), newest, strict=True)
    }
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 5e-6)):
        for way in ("fused", "plain", "rank space"):
            site = site_of(tasks, kind, dtype, conv=conv)
            if way == "rank space":
                site.working.folded = None
            if way == "plain":
                site.slots.up.register_forward_hook(lambda *_: None)
            leaf = x.to(dtype, copy=True).requires_grad_()
            assert (site.fusible(leaf) is not None) == (way == "fused" or (way == "rank space" and tasks == 1))
            value = site(leaf)
            value.backward(upstream.to(dtype))
            found = {"value": value.detach(), "x": leaf.grad} | {
                name: tensor.grad for name, tensor in site.parameters_by_group().items()
            }
            assert worst(found, expected) <= limit, (dtype, way)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["lora", "svd"])
def test_dropout_is_on_the_newest_alone(kind: str) -> None:
    site = site_of(4, kind, dropout=0.5).train()
    x = drawn(3, 5, D_IN, seed=1)
    torch.manual_seed(3)
    seen = nn.functional.dropout(x, 0.5)
    torch.manual_seed(3)
    assert site.fusible(x) is not None
    found = site(x)
    newest = [tensor.detach() for tensor in site.parameters_by_group().values()]
    assert (found - naive_site(4, kind, False, x, seen, newest)).abs().max() <= 1e-12
    assert (found - site.eval()(x)).abs().max() > 0.1, "something was dropped"


def test_who_listens_to_the_down_map_hears_it_once_and_changes_nothing() -> None:
    site, x = site_of(3, dropout=0.5).train(), drawn(3, 5, D_IN, seed=1)
    torch.manual_seed(3)
    unheard = site(x)
    heard: list[tuple[Tensor, Tensor]] = []
    site.slots.down.register_forward_hook(lambda module, args, output: heard.append((args[0], output)))
    torch.manual_seed(3)
    assert torch.equal(site(x), unheard)
    ((seen, codes),) = heard
    assert torch.equal(codes, seen @ site.slots.down.weight.T)
    assert 0 < (seen == 0).sum() < seen.numel()


def test_where_the_hand_written_pass_does_not_fit_it_is_not_taken() -> None:
    x = drawn(2, D_IN).float()

    def changed(change: Any, tasks: int = 3) -> LowRankSite:
        site = site_of(tasks, dtype=torch.float32)
        assert site.fusible(x) is not None
        change(site)
        return site

    changes = {
        "another type": lambda site: site.base.double(),
        "a trained host": lambda site: site.base.requires_grad_(True),
        "a measured weight": lambda site: site.working.folded.requires_grad_(),
        "the base is listened to": lambda site: site.base.register_forward_hook(lambda *_: None),
        "up is listened to": lambda site: site.slots.up.register_forward_pre_hook(lambda *_: None),
        "down's gradient is listened to": lambda site: site.slots.down.register_full_backward_hook(lambda *_: None),
        "a past in rank space": lambda site: setattr(site.working, "folded", None),
        "a base with its own forward": lambda site: setattr(site.base, "forward", lambda x: x[..., :D_OUT]),
    }
    for what, change in changes.items():
        assert changed(change).fusible(x) is None, what
    site = site_of(3, dtype=torch.float32)
    assert site.fusible(x.double()) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert site.fusible(x) is None
    assert site.fusible(x) is not None

    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    base = nn.Linear(D_IN, D_OUT).requires_grad_(False)
    parametrize.register_parametrization(base, "weight", Doubled())
    first = LowRankSite(base, LowRank(RANK))
    first.grow()
    assert first.fusible(x) is None
    assert torch.equal(first(x), base(x))


# Its two ways to sum the past


@pytest.mark.parametrize("tasks", [1, 5, 15, 50])
def test_the_sum_of_the_past(tasks: int) -> None:
    down, up = drawn(tasks, RANK, D_IN, seed=1, size=0.3), drawn(tasks, RANK, D_OUT, seed=2, size=0.3)
    x, weight = drawn(3, 5, D_IN, seed=3), drawn(D_OUT, D_IN, seed=4)
    update = sum(SCALE * torch.outer(up[i, j], down[i, j]) for i in range(tasks) for j in range(RANK))
    assert isinstance(update, Tensor)
    folded = folded_weight(weight, down, up, scale=SCALE)
    assert (folded - (weight + update)).abs().max() <= 1e-12 * (weight + update).abs().max()
    in_rank_space = summed_update(x, down, up, scale=SCALE)
    assert (in_rank_space - x @ update.T).abs().max() <= 1e-12 * (x @ update.T).abs().max()
    single = folded_weight(weight.float(), down.float(), up.float(), scale=SCALE)
    assert (single - (weight + update)).abs().max() <= 5e-6 * (weight + update).abs().max()
