"""Sensitivities through the folded weight are those of the triplets themselves, and leave no trace."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.functional.sensitivity import Triplets, folded_gradients
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts import sensitivity_start
from nacre.parts.measured_sensitivity import is_dense, through_folded, through_triplets
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.registry import build_method

TASK = tiny_task("fish")


def with_past(
    name: str, architecture: str, dtype: torch.dtype = torch.float64, tasks: int = 4, **parameters: object
) -> Learner:
    """A learner whose newest slot is open and zero, after tasks that left random tensors of several sizes."""
    learner = Learner(
        tiny_host(architecture, dtype), build_method(name, {"rank": 2, **parameters}), optim=Optim(batch_size=4)
    )
    for task in range(tasks):
        learner.adapter.grow()
        learner.adapter.fresh(task)
        perturb(learner.host.model, seed=task, size=0.1 * (1 + task))
    learner.adapter.grow()
    return learner


def both_ways(
    learner: Learner, start: SensitivityStart, names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Tensor]]:
    found = []
    for way in (through_folded, through_triplets):
        monkeypatch.setattr(sensitivity_start, "through_folded", way)
        found.append(start.sensitivities(learner, [TASK], names))
    return found


@pytest.mark.parametrize("estimate", ["batch", "sample"])
@pytest.mark.parametrize(("name", "parameters"), [("lb_cl", {"alpha": 5.0}), ("inc_lora", {})])
@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "roberta"])
def test_both_ways_give_the_same(
    architecture: str,
    name: str,
    parameters: dict[str, object],
    estimate: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With and without sigma, a scale, biases, weights stored either way round; all sites or some."""
    learner = with_past(name, architecture, **parameters)
    if architecture == "roberta":
        learner.host.family.head.prepare([TASK], 0, set())  # it has no classes else
    names = list(learner.adapter.sites)
    start = SensitivityStart(seed_samples=5, estimate=estimate)
    for chosen in (names, names[1::2]):
        folded, triplets = both_ways(learner, start, chosen, monkeypatch)
        assert list(folded) == list(triplets) == chosen
        largest = max(found.norm() for found in triplets.values())
        assert largest > 1e-3, "there was something to find"
        for site in chosen:
            assert folded[site].shape == (4, 2)
            away = (folded[site] - triplets[site]).norm()
            assert away <= 1e-12 * largest  # a gradient that is small for a saturated attention has its rounding
            assert away <= 1e-10 * triplets[site].norm()


@pytest.mark.parametrize("with_sigma", [True, False])
def test_gradients_from_that_of_the_folded_weight_are_autograds(with_sigma: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    down, up, sigma, weight = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((3, 2, 7), (3, 2, 5), (3, 2), (5, 7))
    )
    slope = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    total = weight
    for task in range(3):
        for i in range(2):
            size = sigma[task, i] if with_sigma else 1.0
            total = total + 1.7 * size * torch.outer(up[task, i], down[task, i])
    (total * slope).sum().backward()
    values = Triplets(down.detach(), up.detach(), sigma.detach() if with_sigma else None)
    found = folded_gradients(values, slope, scale=1.7)
    assert (found.down - down.grad).abs().max() <= 1e-13
    assert (found.up - up.grad).abs().max() <= 1e-13
    if with_sigma:
        assert (found.sigma - sigma.grad).abs().max() <= 1e-13
    else:
        assert found.sigma is None


def test_the_folded_way_is_taken_where_there_is_a_folded_weight_of_full_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    for way in (through_folded, through_triplets):
        monkeypatch.setattr(
            sensitivity_start,
            way.__name__,
            lambda adapter, names, way=way: taken.append(way.__name__) or way(adapter, names),
        )
    cases = [
        ("lb_cl", torch.float32, "through_folded"),
        ("inc_lora", torch.float64, "through_folded"),
        ("inc_lora", torch.bfloat16, "through_triplets"),
        ("am_lora", torch.float32, "through_triplets"),
    ]
    for name, dtype, expected in cases:
        learner = with_past(name, "llama", dtype)
        found = SensitivityStart().sensitivities(learner, [TASK], list(learner.adapter.sites))
        assert taken.pop() == expected, name
        assert all(scores.isfinite().all() and scores.any() for scores in found.values())
    assert taken == []


@pytest.mark.parametrize("way", [through_folded, through_triplets])
def test_afterwards_everything_is_what_it_was_with_or_without_an_error(way: object) -> None:
    learner = with_past("lb_cl", "t5", torch.float32)
    adapter, model = learner.adapter, learner.host.model
    modules, sites = dict(model.named_modules()), list(adapter.sites.values())
    folded = [site.working.folded for site in sites]
    copies = [weight.clone() for weight in folded]

    def check() -> None:
        assert dict(model.named_modules()) == modules
        assert all(site.working.folded is weight for site, weight in zip(sites, folded, strict=True))
        assert all(torch.equal(weight, copy) for weight, copy in zip(folded, copies, strict=True))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(weight.requires_grad for weight in folded)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    with way(adapter, list(adapter.sites)) as found:
        torch.autograd.backward(learner.loss_sum(learner.encode(TASK.examples("train"))), inputs=found.leaves)
        found.add()
        assert all(leaf.grad is None for leaf in found.leaves), "read and dropped"
    check()
    with pytest.raises(RuntimeError, match="stop"), way(adapter, list(adapter.sites)):
        raise RuntimeError("stop")
    check()


def test_no_two_dense_gradients_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is turned into sensitivities while the backward pass goes on to the next."""
    learner = with_past("lb_cl", "llama", torch.float32)
    names = list(learner.adapter.sites)
    most = 0
    with through_folded(learner.adapter, names) as found:

        def count(_: Tensor) -> None:
            nonlocal most
            most = max(most, sum(leaf.grad is not None for leaf in found.leaves))

        for leaf in found.leaves:
            leaf.register_post_accumulate_grad_hook(count)
        torch.autograd.backward(learner.loss_sum(learner.encode(TASK.examples("train"))), inputs=found.leaves)
    assert len(names) > 2
    assert most == 0, "by the time of a later hook the gradient is gone"
    assert all(scores.any() for scores in found.sensitivities.values())


def test_a_site_without_a_folded_weight_is_not_dense() -> None:
    learner = Learner(tiny_host("llama"), build_method("lb_cl", {"rank": 2}), optim=Optim(batch_size=4))
    learner.adapter.grow()
    assert not any(is_dense(site) for site in learner.adapter.sites.values())
