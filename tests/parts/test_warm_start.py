"""+warm_start: which task is nearest, what a copy and an average are, and that validation rows decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.events import Event, StartChosen, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.evidence_sums import Sums, SumsSettings, View
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.parts.warm_start import WarmStart
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [
    tiny_task("animals", rows=24),
    tiny_task("colors", rows=18, labels=("red", "green")),
    tiny_task("plants", rows=20, labels=("maybe", "no")),
]
NEW = tiny_task("beasts", rows=16)
STEP = 1e-4
"""Of a finite difference: T5's softmax is computed in float32, so that a smaller one drowns in rounding."""


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Watched:
    """A learner that notes where each task began, and what was said of it."""

    def __init__(self, name: str, architecture: str, **settings: object) -> None:
        self.starts: list[dict[str, Tensor]] = []
        self.said: list[StartChosen] = []
        method = build_method(name, settings)
        self.learner = Learner(tiny_host(architecture, torch.float64), method, seed=4, optim=OPTIM, on_event=self.watch)

    def watch(self, event: Event) -> None:
        if isinstance(event, StartChosen):
            self.said.append(event)
        if isinstance(event, TrainingPrepared):
            tensors = self.learner.adapter.tensors()
            self.starts.append({name: tensor.clone() for name, tensor in tensors.items()})
            perturb(self.learner.host.model, seed=self.learner.task_number)


def newest(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The newest slots' factors, as `past_*` has them, by site and group."""
    down = {name[: -len(".down.weight")]: tensor for name, tensor in tensors.items() if name.endswith(".down.weight")}
    return {
        **{f"{site}.past_down": tensor for site, tensor in down.items()},
        **{f"{site}.past_up": tensors[f"{site}.up.weight"].T for site in down},
    }


def nearest_tasks(learner: Learner, known: Sums, views: tuple[str, ...]) -> list[str]:
    """By numpy, from the sums."""
    away: dict[str, float] = {}
    for text in views:
        by_task: dict[str, View] = {own.task: own.view(text) for own in known.tasks}  # type: ignore[arg-type]
        rows = sum(mean.count for view in by_task.values() for mean in view.means)
        pairs = sum(len(view.means) for view in by_task.values())
        width = len(next(iter(by_task.values())).means[0].mean)
        spread = np.zeros((width, width))
        for view in by_task.values():
            spread[np.triu_indices(width)] += view.scatter.numpy()
        covariance = (spread + np.triu(spread, 1).T) / (rows - pairs)
        inverse = np.linalg.inv(covariance + SumsSettings().ridge * np.diag(np.diag(covariance)))
        centers = {
            task: sum(own.count * own.mean.numpy() for own in view.means) / sum(own.count for own in view.means)
            for task, view in by_task.items()
        }
        for task in learner.state.tasks[:-1]:
            difference = centers[task] - centers["beasts"]
            away[task] = away.get(task, 0.0) + difference @ inverse @ difference
    return sorted(away, key=away.__getitem__)


def taught(name: str, architecture: str, **settings: object) -> Watched:
    watched = Watched(name, architecture, warm_start=settings)
    for task in (*TASKS, NEW):
        watched.learner.learn(task)
    return watched


def sums_of(learner: Learner) -> Sums:
    found: Sums = learner.state.parts["evidence"]
    return found


@pytest.mark.parametrize("views", ["prompt", "bare", "both"])
def test_the_nearest_task_is_that_of_the_nearest_mean_and_its_slot_is_copied(architecture: str, views: str) -> None:
    watched = taught("inc_lora+warm_start", architecture, begin_with="nearest", views=views)
    read = ("prompt", "bare") if views == "both" else (views,)
    nearest = nearest_tasks(watched.learner, sums_of(watched.learner), read)[0]
    assert watched.said[-1].tasks == [nearest]
    begun, past = newest(watched.starts[-1]), watched.starts[-1]
    for name, tensor in begun.items():
        assert torch.equal(tensor, past[name][[task.name for task in TASKS].index(nearest)])


def test_the_average_of_one_task_is_its_copy(architecture: str) -> None:
    copied, mean = (
        taught("inc_lora+warm_start", architecture, begin_with=kind, nearest=1) for kind in ("nearest", "mean")
    )
    for one, other in zip(newest(copied.starts[1]).values(), newest(mean.starts[1]).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_the_average_is_weighted_by_sensitivities_while_the_nearest_answer_in_equal_shares() -> None:
    """The gradients by finite differences, at one site."""
    watched = Watched("inc_lora+warm_start", "t5", rank=2, warm_start={"begin_with": "mean", "nearest": 2})
    for task in TASKS:
        watched.learner.learn(task)
    learner = watched.learner
    learner.learn(NEW)
    start = watched.starts[-1]
    slots = [[task.name for task in TASKS].index(name) for name in watched.said[-1].tasks]
    assert len(slots) == 2
    # Back to where the start was measured: three slots that answer, and a fourth of zeros.
    learner.adapter.load({}, {})
    again = Watched("inc_lora", "t5", rank=2)
    for _ in range(4):
        again.learner.adapter.grow()
    sites = again.learner.adapter.sites  # type: ignore[attr-defined]
    name, site = next(iter(sites.items()))
    for each, own in sites.items():
        own.slots.past_down.copy_(start[f"{each}.past_down"])
        own.slots.past_up.copy_(start[f"{each}.past_up"])
    again.learner._number = 4
    rows = again.learner.encode(SensitivityStart(8).seed_rows(again.learner, [NEW]))
    weights = torch.zeros(len(rows), 4, dtype=torch.float64)
    weights[:, slots] = 0.5

    def loss() -> float:
        with torch.no_grad(), again.learner.under(Route(weights)):
            return float(again.learner.loss_sum(rows)) / sum(row.num_target_tokens for row in rows)

    def sensitivity(stack: Tensor, slot: int, rank: int) -> float:
        total, width = 0.0, stack.shape[-1]
        for place in range(width):
            before = float(stack[slot, rank, place])
            stack[slot, rank, place] = before + STEP
            above = loss()
            stack[slot, rank, place] = before - STEP
            below = loss()
            stack[slot, rank, place] = before
            total += abs(before * (above - below) / (2 * STEP))
        return total / width

    for rank in range(2):
        both = [
            sensitivity(site.slots.past_down, slot, rank) + sensitivity(site.slots.past_up, slot, rank)
            for slot in slots
        ]
        shares = [each / sum(both) for each in both]
        ups = [site.slots.past_up[slot, rank] for slot in slots]
        sign = -1.0 if float(ups[0] @ ups[1]) < 0 else 1.0
        expected = shares[0] * ups[0] + sign * shares[1] * ups[1]
        torch.testing.assert_close(newest(start)[f"{name}.past_up"][rank], expected, rtol=5e-3, atol=1e-4)


def test_validation_rows_decide(architecture: str) -> None:
    watched = taught("inc_lora+gaussian_routing+warm_start", architecture)
    chosen = watched.said[-1]
    assert set(chosen.losses) == {"fresh", "nearest", "mean"}
    assert chosen.losses[chosen.start] == min(chosen.losses.values())
    first = watched.said[0].start
    always = taught("inc_lora+gaussian_routing+warm_start", architecture, begin_with=first)
    for name, tensor in newest(watched.starts[1]).items():
        assert torch.equal(tensor, newest(always.starts[1])[name])


def test_the_first_task_and_a_fresh_choice_begin_as_without_it(architecture: str) -> None:
    fresh, plain = taught("inc_lora+warm_start", architecture, begin_with="fresh"), Watched("inc_lora", architecture)
    for task in (*TASKS, NEW):
        plain.learner.learn(task)
    for name, tensor in plain.learner.adapter.tensors().items():
        assert torch.equal(tensor, fresh.learner.adapter.tensors()[name])
    assert not fresh.said


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="all tasks share one slot"):
        build_method("seq_lora+warm_start")
    with pytest.raises(RecipeError, match="nearest"):
        WarmStart(nearest=0)
