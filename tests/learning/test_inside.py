"""What is measured inside a learner: magnitudes and sensitivities against naive computations, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import NacreError
from nacre.events import ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.measuring.slot_sensitivities import slot_sensitivities
from nacre.measuring.task_magnitudes import output_maps, task_magnitudes
from nacre.models.evaluating import evaluating
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.registry import build_method
from nacre.tasks.task import Task

TASKS = [tiny_task("animals", rows=12), tiny_task("plants", rows=10)]
OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=5)


def learned(name: str, architecture: str, tasks: list[Task] = TASKS) -> Learner:
    host = tiny_host(architecture)
    perturb(host.model)
    own = {} if name == "seq_ft" else {"rank": 2}
    learner = Learner(host, build_method(name, own), optim=OPTIM, on_event=ignore)
    for task in tasks:
        learner.learn(task)
    return learner


def naive_magnitudes(learner: Learner, task: Task, place: str, rows: int) -> Tensor:
    """The mean over tokens of |h|: each row alone, so that there is no padding."""
    outputs: list[Tensor] = []
    module = learner.host.body.get_submodule(place)
    handle = module.register_forward_hook(lambda _, given, output: outputs.append(output[0].detach().double()))
    with torch.no_grad(), evaluating(learner.host.model):
        for row in learner.encode(task.spread("test", rows)):
            learner.loss_sum([row])
    handle.remove()
    return torch.cat(outputs).abs().mean(0)


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "roberta"])
@pytest.mark.parametrize("name", ["inc_lora", "seq_ft"])
def test_magnitudes_and_overlaps(name: str, architecture: str) -> None:
    learner = learned(name, architecture)
    before = {name: tensor.clone() for name, tensor in learner.host.model.state_dict().items()}
    places = [each.place for each in output_maps(learner.host.body)]
    found = task_magnitudes(learner, TASKS, rows=3, threshold=0.6, shown=places[1])
    assert [site.site for site in found.sites] == places
    assert all(site.roles and site.layer is not None for site in found.sites)
    expected = torch.stack([naive_magnitudes(learner, task, places[1], 3) for task in TASKS])
    assert torch.allclose(torch.tensor(found.magnitudes, dtype=torch.float64), expected, rtol=1e-5)
    for site in (found.sites[1], found.sites[-1]):
        own = torch.stack([naive_magnitudes(learner, task, site.site, 3) for task in TASKS])
        kept = own.shape[1] - int(0.6 * own.shape[1])
        first, second = (set(row.topk(kept).indices.tolist()) for row in own)
        assert site.chance == pytest.approx(kept / own.shape[1])
        assert site.overlaps[0][1] == site.overlaps[1][0] == pytest.approx(len(first & second) / kept)
        assert site.overlaps[0][0] == site.overlaps[1][1] == 1
    after = learner.host.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_an_adapter_takes_part_in_what_a_map_puts_out() -> None:
    learner = learned("seq_lora", "t5")
    adapted = task_magnitudes(learner, TASKS, rows=3)
    with learner.bypassed():
        bare = task_magnitudes(learner, TASKS, rows=3)
    assert adapted.shown.endswith("DenseReluDense.wi_1")
    assert not torch.allclose(torch.tensor(adapted.magnitudes), torch.tensor(bare.magnitudes), rtol=1e-3)


def test_magnitudes_that_cannot_be_compared() -> None:
    learner = learned("seq_lora", "t5")
    with pytest.raises(NacreError, match="needs two tasks"):
        task_magnitudes(learner, TASKS[:1])
    with pytest.raises(NacreError, match="no linear map of attention or feed-forward named 'lm_head'; the last of"):
        task_magnitudes(learner, TASKS, shown="lm_head")


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("name", ["inc_lora", "lb_cl"])
def test_sensitivities_are_those_of_lb_cls_start(name: str, architecture: str) -> None:
    """Which has them from the folded weight's gradient, before a new slot is trained."""
    learner = learned(name, architecture)
    new = tiny_task("tools", rows=6)
    found = {site.site: site for site in slot_sensitivities(learner, [new], rows=6)}
    begun: dict[str, Tensor] = {}

    class Watched(SensitivityStart):
        def fill(self, learner, tasks):  # type: ignore[no-untyped-def]
            begun.update(self.sensitivities(learner, tasks, list(learner.adapter.sites)))

    learner.method = replace(learner.method, start=Watched(seed_samples=6))
    learner.learn(new)
    assert found.keys() == begun.keys()
    for place, sensitivities in begun.items():
        assert found[place].sensitivity == pytest.approx(sensitivities.mean(-1).tolist(), rel=1e-3, abs=1e-9)
    assert max(max(site.sensitivity) for site in found.values()) > 0


def test_fisher_information_is_the_mean_square_of_each_rows_gradient() -> None:
    learner = learned("seq_lora", "t5")
    found = {(site.task, site.site): site for site in slot_sensitivities(learner, TASKS, rows=4)}
    site = next(iter(learner.adapter.sites))
    parameters = learner.adapter.sites[site].slots.parameters_by_group()
    assert not any(parameter.requires_grad for parameter in parameters.values()), "as before"
    squares = [torch.zeros_like(parameter) for parameter in parameters.values()]
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with evaluating(learner.host.model):
        for row in learner.encode(TASKS[1].spread("train", 4)):
            loss = learner.loss_sum([row]) / row.num_target_tokens
            for square, gradient in zip(squares, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                square += gradient.square() / 4
    expected = torch.cat([square.flatten() for square in squares]).mean()
    assert found["plants", site].fisher == pytest.approx((expected.item(),), rel=1e-4)


@pytest.mark.parametrize("name", ["am_lora", "epi"])
def test_slots_that_are_weighted_or_chosen_are_measured(name: str) -> None:
    learner = learned(name, "t5")
    found = slot_sensitivities(learner, TASKS)
    assert {len(site.sensitivity) for site in found} == {len(site.fisher) for site in found} == {2}
    assert all(min(site.fisher) >= 0 for site in found)
    assert max(max(site.fisher) for site in found) > 0


def test_methods_without_slots_are_refused() -> None:
    with pytest.raises(NacreError, match="seq_ft has no low-rank slots"):
        slot_sensitivities(learned("seq_ft", "t5"), TASKS)


def test_examples_at_even_distances() -> None:
    task = tiny_task(rows=10)
    every = task.examples("train")
    assert len(every) == 10
    assert task.spread("train", 4) == [every[place] for place in (0, 2, 5, 7)]
    assert task.spread("train", 99) == every
