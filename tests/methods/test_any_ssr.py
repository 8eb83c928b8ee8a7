"""Any-SSR: scikit-learn's ridge tells the task, in any order, whatever is learned above the first block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.sites import PlacedSites
from nacre.errors import RecipeError
from nacre.functional.random_features import standard_normal
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.any_ssr import any_ssr
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates
from nacre.models.reader import reader_of
from nacre.parts.ridge_moments import Moments
from nacre.parts.ridge_routing import RidgeRouting
from nacre.seeds import derive
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", rows=16, labels=("maybe", "no", "blue")),
]
TINY: dict[str, Any] = {"blocks": 1, "dimension": 32}
OPTIONS: list[dict[str, Any]] = [
    {"lam": 5.0},
    {"relu": False, "text": "bare", "lam": 0.3},
    {"dimension": None, "scale": "relative", "lam": 0.01},
]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(architecture: str, tasks: list[Task] = TASKS, **settings: Any) -> Learner:
    learner = Learner(tiny_host(architecture), any_ssr(**{**TINY, **settings}), seed=5, optim=OPTIM)
    for task in tasks:
        learner.learn(task)
    return learner


def routing_of(learner: Learner) -> RidgeRouting:
    routing = learner.method.routing
    assert isinstance(routing, RidgeRouting)
    return routing


def values_by_sklearn(architecture: str, settings: dict[str, Any]) -> np.ndarray:
    """Of all tasks' test rows: what a ridge on one-hot tasks, fitted on all rows at once, gives each task."""
    bare = Learner(tiny_host(architecture), seq_lora(), seed=5, optim=OPTIM)
    states = PooledStates(1, text=settings.get("text", "prompt"), final_norm=True)

    def features(task: Task, split: str) -> np.ndarray:
        read = [bare.pooled_states([row], states) for row in bare.encode(task.examples(split))]
        rows = torch.cat(read).double().numpy()
        if settings.get("dimension", 32) is None:
            return rows
        rows = rows @ standard_normal(rows.shape[1], 32, derive(5, "ridge_routing")).numpy()
        return np.maximum(rows, 0) if settings.get("relu", True) else rows

    own = [features(task, "train") for task in TASKS]
    whole, numbers = np.concatenate(own), np.repeat(np.arange(3), [len(rows) for rows in own])
    share = np.square(whole).sum(0).mean() if settings.get("scale") == "relative" else 1.0
    fitted = Ridge(alpha=settings["lam"] * share, fit_intercept=False).fit(whole, np.eye(3)[numbers])
    return np.asarray(fitted.predict(np.concatenate([features(task, "test") for task in TASKS])))


@pytest.mark.parametrize("settings", OPTIONS, ids=["relu", "linear", "plain"])
def test_the_inferred_task_is_that_of_sklearns_ridge(architecture: str, settings: dict[str, Any]) -> None:
    learner = learned(architecture, **settings)
    routing = routing_of(learner)
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))]
    states = learner.pooled_states(rows, routing.states)
    known = learner.remembered(routing, Moments)
    assert known is not None
    tasks, evidence = routing._solved(learner, known)
    assert tasks == ["animals", "birds", "fish"]
    expected = values_by_sklearn(architecture, settings)
    np.testing.assert_allclose(evidence(states.double()).numpy(), expected, rtol=1e-4, atol=1e-4)
    chosen = routing.answer(learner, known, states).slots
    assert chosen is not None
    assert torch.equal(chosen, torch.from_numpy(expected.argmax(1)))
    assert len(set(expected.argmax(1).tolist())) > 1


def test_statistics_have_the_same_bits_in_any_order(architecture: str) -> None:
    """Of tasks, and of rows; and the slots follow their tasks."""
    turned = [
        Task(task.name, task.train[::-1], task.validation, task.test, task.template, task.labels)
        for task in (TASKS[2], TASKS[0], TASKS[1])
    ]
    one, other = learned(architecture), learned(architecture, turned)
    first, second = (learner.remembered(routing_of(learner), Moments) for learner in (one, other))
    assert first is not None
    assert second is not None
    assert torch.equal(first.moment.matrix(), second.moment.matrix())
    means = {mean.task: mean.mean for mean in second.means}
    assert all(torch.equal(mean.mean, means[mean.task]) for mean in first.means)
    rows = [row for task in TASKS for row in one.encode(task.examples("test"))]
    states = one.pooled_states(rows, routing_of(one).states)
    ours, theirs = (
        routing_of(learner).answer(learner, known, states).as_weights(3)
        for learner, known in ((one, first), (other, second))
    )
    assert ours is not None
    assert theirs is not None
    assert torch.equal(theirs[:, [1, 2, 0]], ours)


def test_no_lora_lies_below_the_states_that_tell_the_task(architecture: str) -> None:
    """What the first block gives is the same bits with every LoRA in place; what stands above differs."""
    learner = learned(architecture)
    perturb(learner.host.model)
    adapter = learner.adapter
    assert isinstance(adapter, PlacedSites)
    rows = learner.encode(TASKS[1].examples("test"))
    inputs = learner.host.on_device(learner.host.family.prompts(rows))
    read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours = reader_of(learner.host.body)(**read, output_hidden_states=True).hidden_states
        theirs = reader_of(tiny_host(architecture).body)(**read, output_hidden_states=True).hidden_states
    assert torch.equal(ours[1], theirs[1])
    assert not torch.allclose(ours[-1], theirs[-1])
    assert any(name.startswith("decoder") for name in adapter.sites) is (architecture == "t5")


def test_a_task_learned_again_is_answered_by_its_newest_slot() -> None:
    learner = learned("t5", TASKS[:2])
    learner.learn(TASKS[0], again=True)
    rows = learner.encode(TASKS[0].examples("train"))
    known = learner.remembered(routing_of(learner), Moments)
    assert known is not None
    assert sum(mean.count for mean in known.means) == 3 * len(rows)
    slots = routing_of(learner).answer(learner, known, learner.pooled_states(rows, routing_of(learner).states)).slots
    assert slots is not None
    assert 0 not in slots
    assert 2 in slots


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="it chooses among slots, one for each task; inc_lora has them"):
        seq_lora().with_routing(RidgeRouting())
    with pytest.raises(RecipeError, match="lam"):
        any_ssr(lam=0.0)
    with pytest.raises(RecipeError, match="lies above the first 4 blocks"):
        Learner(tiny_host("llama"), any_ssr(), optim=OPTIM)
