"""A fixed budget of tasks: values and every gradient against a naive float64 computation by autograd that shares no
code with it, the chosen tasks held fixed; who is chosen; and what is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.counting import Operations, kept_bytes
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.gated import Gated, GatedSite, PlacedGated
from nacre.errors import NacreError, RecipeError
from nacre.evaluation.gates import dropped_gates, mean_gates
from nacre.functional.fused_gating import Mixture
from nacre.functional.gates_first import chosen_tasks, fused_gates_first
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method

D_IN, D_OUT, RANK, SCALE = 24, 20, 3, 2.0
NAMES = ("x", "undropped", "down", "up", "selector", "zero_score")
OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=5)
KINDS = [
    (Mixture(SCALE, SCALE, True), False),
    (Mixture(SCALE, SCALE, True), True),
    (Mixture(SCALE, SCALE, False), False),
    (Mixture(SCALE, 1.0, True, "tanh"), False),
    (Mixture(SCALE, 1.0, True, "relu"), True),
    (Mixture(SCALE, SCALE, False, "none", 0.7), False),
]


def tensors(tasks: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, size: float = 0.3) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * size

    return {
        "x": drawn(3, 5, D_IN, size=1.0),
        "undropped": drawn(3, 5, D_IN, size=1.0),
        "past_down": drawn(tasks - 1, RANK, D_IN),
        "past_up": drawn(tasks - 1, RANK, D_OUT),
        "down": drawn(RANK, D_IN),
        "up": drawn(D_OUT, RANK),
        "selector": drawn(tasks, D_OUT),
        "zero_score": drawn(1),
        "weight": drawn(D_OUT, D_IN),
        "bias": drawn(D_OUT),
    }


def naive(
    t: Mapping[str, Tensor], mixture: Mixture, learned: bool, base: str | None, keep: int, with_newest: bool
) -> tuple[Tensor, list[int]]:
    """Every y_i built; the output, and who was chosen. base: what its frozen map reads."""
    x, tasks = t["x"], len(t["selector"])
    outputs = [mixture.scale * (x @ a.T) @ b for a, b in zip(t["past_down"], t["past_up"], strict=True)]
    outputs.append(mixture.scale * (x @ t["down"].T) @ t["up"].T)
    scores = []
    for task, y in enumerate(outputs):
        z = (y * t["selector"][task]).sum(-1) * (mixture.key_scale / mixture.scale)
        z = {"none": z, "tanh": torch.tanh(z), "relu": torch.clamp(z, min=0)}[mixture.activation]
        scores.append(z - mixture.offset if task == tasks - 1 else z)
    zero = [t["zero_score"].expand(x.shape[:-1]) if learned else 0 * scores[0].detach()] if mixture.zero_lora else []

    def gates(of: list[Tensor]) -> Tensor:
        powers = torch.stack([*of, *zero], -1).exp()
        return (powers / powers.sum(-1, keepdim=True))[..., :tasks]

    sums = gates(scores).detach().flatten(0, -2).sum(0).tolist()
    order = sorted(range(tasks), key=lambda task: (with_newest and task == tasks - 1, sums[task]), reverse=True)
    chosen = order[:keep]
    constant = [score if task in chosen else score.detach() for task, score in enumerate(scores)]
    shares = gates(constant)
    delta = sum(shares[..., task, None] * outputs[task] for task in chosen)
    return (delta if base is None else delta + t[base] @ t["weight"].T + t["bias"]), chosen


def fused(
    t: Mapping[str, Tensor], mixture: Mixture, learned: bool, base: str | None, keep: int, with_newest: bool
) -> Tensor:
    def stacked(past: Tensor) -> Tensor:
        return torch.cat([past.flatten(0, 1), past.new_full((RANK, past.shape[-1]), float("nan"))])

    return fused_gates_first(
        t["x"],
        t["down"],
        t["up"],
        t["selector"],
        t["zero_score"] if learned else None,
        stacked(t["past_down"]),
        stacked(t["past_up"]),
        mixture,
        (t["weight"], t["bias"]) if base else None,
        t["undropped"] if base == "undropped" else None,
        keep=keep,
        with_newest=with_newest,
    )


def value_and_gradients(function: Any, t: Mapping[str, Tensor], *options: Any) -> tuple[dict[str, Tensor], Any]:
    leaves = dict(t) | {name: t[name].clone().requires_grad_() for name in NAMES}
    found = function(leaves, *options)
    value, chosen = found if isinstance(found, tuple) else (found, None)
    (value * torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape).to(value)).sum().backward()
    gradients = {name: leaves[name].grad for name in NAMES if leaves[name].grad is not None}
    return {"value": value.detach()} | gradients, chosen


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    errors = [(found[k].double() - expected[k]).abs().max() / expected[k].abs().max().clamp(min=1) for k in found]
    return max(error.item() for error in errors)


@pytest.mark.parametrize("base", [None, "x", "undropped"])
@pytest.mark.parametrize(("mixture", "learned"), KINDS)
@pytest.mark.parametrize(("tasks", "keep"), [(2, 1), (6, 3), (6, 5), (51, 5)])
def test_values_and_gradients(tasks: int, keep: int, mixture: Mixture, learned: bool, base: str | None) -> None:
    t = tensors(tasks)
    options = (mixture, learned, base, keep, True)
    expected, chosen = value_and_gradients(naive, t, *options)
    assert worst(value_and_gradients(fused, t, *options)[0], expected) <= 1e-12
    single = {name: tensor.float() for name, tensor in t.items()}
    assert worst(value_and_gradients(fused, single, *options)[0], expected) <= 5e-6
    others = [task for task in range(tasks) if task not in chosen]
    assert expected["selector"][others].abs().max() == 0
    everything, _ = value_and_gradients(naive, t, mixture, learned, base, tasks, True)
    assert worst({"value": everything["value"]}, {"value": expected["value"]}) > 1e-3, "nothing was left out"


@pytest.mark.parametrize("with_newest", [True, False])
@pytest.mark.parametrize(("mixture", "learned"), KINDS)
def test_values_where_no_gradients_are_wanted(mixture: Mixture, learned: bool, with_newest: bool) -> None:
    seen = set()
    for seed in range(20):
        t = tensors(5, seed)
        options = (mixture, learned, "x", 2, with_newest)
        with torch.no_grad():
            expected, chosen = naive(t, *options)
            assert worst({"value": fused(t, *options)}, {"value": expected}) <= 1e-12
        seen.add(4 in chosen)
    assert seen == ({True} if with_newest else {True, False})


def test_who_is_chosen() -> None:
    sums = torch.tensor([0.3, 2.0, 0.1, 5.0, 0.2])
    assert chosen_tasks(sums, 3, with_newest=False).tolist() == [3, 1, 0]
    assert chosen_tasks(sums, 3, with_newest=True).tolist() == [4, 3, 1]
    assert chosen_tasks(sums, 1, with_newest=True).tolist() == [4]
    assert sums.tolist() == pytest.approx([0.3, 2.0, 0.1, 5.0, 0.2])


# A site.


def site_of(tasks: int, dtype: torch.dtype = torch.float64, **options: Any) -> GatedSite:
    torch.manual_seed(5)
    site = GatedSite(nn.Linear(D_IN, D_OUT, dtype=dtype).requires_grad_(False), Gated(**{"rank": RANK, **options}))
    generator = torch.Generator().manual_seed(3)
    for task in range(tasks):
        site.grow()
        site.fresh(task)
        with torch.no_grad():
            for parameter in site.parameters_by_group().values():
                parameter.add_(0.3 * torch.randn(parameter.shape, dtype=dtype, generator=generator))
    return site


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 7, D_IN, dtype=dtype, generator=torch.Generator().manual_seed(4)).requires_grad_()


def learnt_from(site: GatedSite, x: Tensor, twin: bool = False) -> dict[str, Tensor]:
    """The value of a training step and every gradient; twin: by autograd."""
    x = x.detach().requires_grad_()
    torch.manual_seed(11)  # for dropout
    value = site.untouched(x) + site.delta(x) if twin else site(x)
    value.square().sum().backward()
    found = {"value": value.detach(), "x": x.grad}
    for name, parameter in site.parameters_by_group().items():
        found[name] = parameter.grad
        parameter.grad = None
    return found


@pytest.mark.parametrize("selectors", ["all", "new"])
@pytest.mark.parametrize("zero_lora", [True, False, "learned"])
@pytest.mark.parametrize("selector_input", ["scaled", "unscaled"])
@pytest.mark.parametrize("activation", ["none", "tanh", "relu"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_site_equals_its_twin_by_autograd(
    selectors: str, zero_lora: bool | str, selector_input: str, activation: str, dropout: float
) -> None:
    site = site_of(
        5,
        selectors=selectors,
        zero_lora=zero_lora,
        selector_input=selector_input,
        activation=activation,
        dropout=dropout,
        keep_gates=2,
    )
    x = inputs()
    assert site.train().can_fuse(x)
    assert worst(learnt_from(site, x), learnt_from(site, x, twin=True)) <= 1e-12
    site.eval()
    assert not site.can_fuse(x), "in evaluation the newest is not always kept, and with it every gradient"
    with torch.no_grad():
        assert site.can_fuse(x)
        assert worst({"value": site(x)}, {"value": site.untouched(x) + site.delta(x)}) <= 1e-12
    assert torch.equal(site(x), site.untouched(x) + site.delta(x))


def test_dropout_for_the_newest_only_runs_the_twin() -> None:
    """Which equals the one-input form where the mask happens to drop nothing, and another one where it does."""
    site = site_of(5, dropout=0.4, dropout_on="new", keep_gates=2).train()
    assert not site.can_fuse(inputs())
    found = learnt_from(site, inputs())
    assert (found["selector"].abs().sum(-1) > 0).sum() == 2
    undropped = site_of(5, dropout=0.0, keep_gates=2).train()
    assert (found["value"] - learnt_from(undropped, inputs())["value"]).abs().max() > 1e-3


@pytest.mark.parametrize("keep", [4, 5, 99])
def test_as_many_as_there_are_is_the_exact_form_bit_for_bit(keep: int) -> None:
    exact, kept = site_of(4, torch.float32, dropout=0.0), site_of(4, torch.float32, dropout=0.0, keep_gates=keep)
    expected, found = (learnt_from(site, inputs(torch.float32)) for site in (exact, kept))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    fewer = learnt_from(site_of(4, torch.float32, dropout=0.0, keep_gates=3), inputs(torch.float32))
    assert all(not torch.equal(fewer[name], expected[name]) for name in expected)


def test_the_newest_task_is_always_trained() -> None:
    """Also where its gate is the smallest of all; in evaluation it is then left out."""
    site = site_of(5, dropout=0.0, keep_gates=1).train()
    site.offset = 30.0
    assert site.gates(inputs())[..., -1].max() < 1e-6
    found = learnt_from(site, inputs())
    assert all(found[name].abs().sum() > 0 for name in ("down", "up", "selector"))
    assert (found["selector"].abs().sum(-1) > 0).tolist() == [False] * 4 + [True]
    x = inputs().detach()
    assert torch.allclose(found["value"], site.untouched(x), atol=1e-4)
    with torch.no_grad():
        assert (site.eval()(x) - site.untouched(x)).abs().max() > 1e-2


def test_what_is_missing_is_what_was_left_out() -> None:
    """The outputs differ by the tasks left out, each times its own gate, which bounds the difference."""
    exact, site = site_of(6, dropout=0.0).eval(), site_of(6, dropout=0.0, keep_gates=2).eval()
    with torch.no_grad():
        x = inputs()
        gates, down, up = exact.gates(x), *exact.slots.all_pairs()
        assert torch.equal(site.gates(x), gates)
        outputs = [exact.settings.scale * (x @ a.T) @ b for a, b in zip(down, up, strict=True)]
        left = gates.flatten(0, 1).sum(0).argsort()[:4].tolist()
        missing = exact(x) - site(x)
        assert torch.allclose(missing, sum(gates[..., task, None] * outputs[task] for task in left), atol=1e-12)
        by_token = sum(gates[..., task] for task in left)
        assert torch.allclose(site.left_out(x), by_token, atol=1e-14)
        largest = torch.stack([outputs[task].norm(dim=-1) for task in left]).amax(0)
        assert (missing.norm(dim=-1) <= site.left_out(x) * largest + 1e-12).all()
        assert by_token.mean() > 0.01
        assert torch.equal(exact.left_out(x), torch.zeros(2, 7, dtype=torch.float64))


@pytest.mark.parametrize("zero_lora", [True, False, "learned"])
@pytest.mark.parametrize("activation", ["none", "tanh", "relu"])
@pytest.mark.parametrize("keep", [None, 2])
def test_under_autocast_the_site_is_as_near_the_truth_as_its_twin(
    zero_lora: bool | str, activation: str, keep: int | None
) -> None:
    options = {"dropout": 0.0, "keep_gates": keep, "zero_lora": zero_lora, "activation": activation}
    site, x = site_of(5, torch.float32, **options).train(), inputs(torch.float32)
    truth = learnt_from(deepcopy(site).double(), x.double(), twin=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert site.can_fuse(x)
        found, twins = learnt_from(site, x), learnt_from(site, x, twin=True)
        with torch.no_grad():
            assert torch.equal(site(x), found["value"])
    assert found["value"].dtype == twins["value"].dtype == torch.bfloat16
    assert found.keys() == truth.keys() == twins.keys()
    for name in truth.keys() - {"value"}:
        assert found[name].dtype == torch.float32
    errors, twins_errors = (
        {name: ((own[name].double() - truth[name]).norm() / truth[name].norm()).item() for name in truth}
        for own in (found, twins)
    )
    for name, error in errors.items():
        assert error < max(2 * twins_errors[name], 0.005), (name, errors, twins_errors)
    assert max(errors.values()) > 1e-4, "products are rounded"


# What it costs.


@pytest.mark.parametrize("tasks", [6, 30])
def test_operations_do_not_grow_with_the_tasks_nor_wait_for_the_device(tasks: int) -> None:
    site = site_of(tasks, torch.float32, dropout=0.0, keep_gates=2).train()
    x = torch.randn(200, D_IN, requires_grad=True)
    site(x)  # the stacks are made once a task
    with Operations() as forward:
        y = site(x)
    weights = torch.ones_like(y)
    with Operations() as backward:
        torch.autograd.grad(y, [x, *site.parameters_by_group().values()], weights)
    found = forward.found + backward.found
    assert found.total() == 39, found
    assert not {"nonzero", "_local_scalar_dense", "masked_select", "unique", "item", "index"} & set(found)
    assert max(forward.largest, backward.largest) <= max(200 * (tasks + 1), 200 * D_IN, tasks * RANK * D_IN)


@pytest.mark.parametrize("zero_lora", [True, "learned"])
def test_only_the_chosen_are_kept_for_the_backward_pass(zero_lora: bool | str) -> None:
    tasks, keep, tokens = 30, 2, 200
    site = site_of(tasks, torch.float32, dropout=0.0, keep_gates=keep, zero_lora=zero_lora).train()
    x = torch.randn(tokens, D_IN, requires_grad=True)
    kept = kept_bytes(lambda: site(x), [*site.parameters(), *site.buffers(), x])
    learned = 4 * tokens if zero_lora == "learned" else 0
    assert kept == 4 * tokens * keep * (RANK + 1) + 4 * keep * RANK + 8 * keep + learned


# A learner.


def learner_of(options: dict[str, object], tasks: int = 3, name: str = "am_lora", architecture: str = "t5") -> Learner:
    learner = Learner(tiny_host(architecture), build_method(name, options), seed=7, optim=OPTIM)
    for number in range(tasks):
        learner.learn(tiny_task(f"task {number}"))
    return learner


def state(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def loss(learner: Learner) -> Tensor:
    learner.host.model.eval()
    with torch.no_grad():
        return learner.loss_sum(learner.encode(tiny_task("task 0").examples("test")))


def test_the_option_begins_where_there_are_more_tasks_than_it_keeps() -> None:
    for tasks, same in ((2, True), (3, False)):
        expected, found = state(learner_of({}, tasks)), state(learner_of({"keep_gates": 2}, tasks))
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()) == same


@pytest.mark.parametrize("options", [{"keep_gates": 1}, {"keep_gates": 2, "zero_lora": "learned"}], ids=str)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_resumed_learner_goes_on_with_the_same_bits(
    options: dict[str, object], architecture: str, tmp_path: Path
) -> None:
    learner = learner_of(options, architecture=architecture)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture))
    assert loaded.method == learner.method
    assert torch.equal(loss(loaded), loss(learner))
    for one in (learner, loaded):
        one.learn(tiny_task("task 3"))
    found = state(loaded)
    assert all(torch.equal(tensor, found[name]) for name, tensor in state(learner).items())


def test_the_past_stays_frozen() -> None:
    learner = learner_of({"keep_gates": 1, "selectors": "new"})
    before = state(learner)
    learner.learn(tiny_task("task 3"))
    after = state(learner)
    for name in before:
        if name.endswith(("past_down", "past_up", "selector")):
            assert torch.equal(after[name][: len(before[name])], before[name]), name


@pytest.mark.parametrize(
    "name", ["am_lora+sensitivity_init", "am_lora+migu", "am_lora+orthogonality", "am_lora+replay"]
)
def test_it_goes_with_what_can_be_added(name: str) -> None:
    """And changes what they learn."""
    expected, found = (state(learner_of(options, name=name)) for options in ({}, {"keep_gates": 1}))
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert any(not torch.equal(tensor, found[key]) for key, tensor in expected.items())


def test_dropped_gates_are_means_over_a_batchs_tokens() -> None:
    """Against sites watched from outside, batch by batch; a batch of everything and batches of one differ."""
    host = tiny_host("t5", torch.float64)
    learner = Learner(host, build_method("am_lora", {"keep_gates": 1}), seed=7, optim=OPTIM)
    for number in range(3):
        learner.learn(tiny_task(f"task {number}"))
    perturb(learner.host.model, size=0.4)
    task, adapter = tiny_task("birds"), learner.adapter
    assert isinstance(adapter, PlacedGated)
    rows = learner.encode(task.examples("test"))
    assert len({len(row.source) for row in rows}) > 1, "rows of one length need no padding"

    def by_hand(size: int) -> dict[str, float]:
        sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in adapter.sites}

        def watch(name: str, site: GatedSite) -> Any:
            def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
                gates = site.gates(given[0]).flatten(0, -2).tolist()
                best = max(range(3), key=lambda task: sum(token[task] for token in gates))
                sums[name][0] += sum(share for token in gates for task, share in enumerate(token) if task != best)
                sums[name][1] += len(gates)

            return site.register_forward_pre_hook(note)

        handles = [watch(name, site) for name, site in adapter.sites.items()]
        learner.host.model.eval()
        with torch.no_grad():
            for start in range(0, len(rows), size):
                learner.loss_sum(rows[start : start + size])
        for handle in handles:
            handle.remove()
        return {name: total / tokens for name, (total, tokens) in sums.items()}

    for size in (1, 4, 16):
        assert dropped_gates(learner, task, batch_size=size) == pytest.approx(by_hand(size), abs=1e-10)
    found = dropped_gates(learner, task)
    assert list(found) == list(adapter.sites)
    assert all(0 < share < 1 for share in found.values())
    assert found != dropped_gates(learner, task, batch_size=1)
    assert all(len(record.gates) == 3 for record in mean_gates(learner, task))


def test_nothing_is_dropped_where_all_are_kept() -> None:
    for options in ({}, {"keep_gates": 3}):
        assert set(dropped_gates(learner_of(options), tiny_task("birds")).values()) == {0.0}
    with pytest.raises(NacreError, match="no gates to look at"):
        dropped_gates(learner_of({}, name="inc_lora"), tiny_task("birds"))


def test_the_option_in_a_recipe() -> None:
    assert build_method("am_lora", {}).parameters["keep_gates"] is None
    method = build_method("am_lora", {"keep_gates": 5})
    assert build_method("am_lora", json.loads(json.dumps(dict(method.parameters)))) == method
    assert method.adapter.keep_gates == 5
    with pytest.raises(RecipeError, match="keep_gates: 0 is not a positive number of tasks; null keeps all"):
        build_method("am_lora", {"keep_gates": 0})
    with pytest.raises(RecipeError, match="keep_gates"):
        build_method("am_lora", {"keep_gates": 1.5})
