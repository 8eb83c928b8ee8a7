"""EPI: whose statistics decide, which slot and which labels answer, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.epi import epi
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates
from nacre.parts.nearest_class import ClassMeans, NearestClass
from nacre.registry import build_method
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", labels=("maybe", "no", "blue")),
]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(method: Method, architecture: str, tasks: list[Task] = TASKS) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM)
    for task in tasks:
        learner.learn(task)
    return learner


def states_of(bare: Learner, task: Task, split: str) -> np.ndarray:
    """Row by row, in a host that has learned nothing."""
    rows = bare.encode(task.examples(split))
    return torch.cat([bare.pooled_states([row], PooledStates()) for row in rows]).double().numpy()


def slots_by_scipy(architecture: str, tolerance: float) -> list[int]:
    """Of all tasks' test rows."""
    bare = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    means: list[tuple[int, np.ndarray]] = []
    covariances = []
    for number, task in enumerate(TASKS):
        states = states_of(bare, task, "train")
        targets = np.array([row.target for row in task.train])
        own = [states[targets == label] for label in dict.fromkeys(targets)]
        means += [(number, each.mean(0)) for each in own]
        covariances.append(np.mean([np.cov(each, rowvar=False) for each in own], axis=0))
    precision = np.linalg.pinv(np.mean(covariances, axis=0), rcond=tolerance, hermitian=True)
    tests = np.concatenate([states_of(bare, task, "test") for task in TASKS])
    distances = [[mahalanobis(state, mean, precision) for _, mean in means] for state in tests]
    return [means[int(np.argmin(row))][0] for row in distances]


def test_the_inferred_task_is_that_of_scipys_distances(architecture: str) -> None:
    learner = learned(epi(), architecture)
    routing = learner.method.routing
    assert isinstance(routing, NearestClass)
    known = learner.state.parts["nearest_class"]
    assert isinstance(known, ClassMeans)
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))]
    found = routing.nearest(learner, known, learner.pooled_states(rows, routing.states)).tolist()
    assert found == slots_by_scipy(architecture, routing.tolerance)
    assert found.count(0) >= 4
    assert found.count(1) >= 4
    assert found.count(2) >= 4


def test_statistics_are_float64_and_a_tasks_own(architecture: str) -> None:
    """Later tasks change nothing of earlier ones', whose labels stand with their tasks."""
    learner = learned(epi(), architecture, TASKS[:1])
    first = learner.state.parts["nearest_class"]
    learner.learn(TASKS[1])
    second = learner.state.parts["nearest_class"]
    alone = learned(epi(), architecture, [TASKS[1]]).state.parts["nearest_class"]
    assert first.covariance.dtype == first.slots[0].means.dtype == torch.float64
    assert torch.equal(second.slots[0].means, first.slots[0].means)
    assert torch.allclose(second.slots[1].means, alone.slots[0].means, rtol=1e-6, atol=1e-6)
    assert torch.allclose(second.covariance, first.covariance + alone.covariance, rtol=1e-5, atol=1e-6)
    assert second.slots[1].labels == [("birds", "red"), ("birds", "green")]


def test_a_row_is_answered_by_the_slot_of_its_inferred_task(architecture: str) -> None:
    """And, where classes are chosen, by that task's labels alone."""
    learner = learned(epi(), architecture)
    slots = slots_by_scipy(architecture, 1e-4)
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))]
    head = learner.host.family.head
    for row, slot, written in zip(rows, slots, learner.host.write(rows, 3), strict=True):
        own = TASKS[slot].labels or ()
        classes = None
        if head is not None:
            assert written in own
            classes = torch.tensor([[label in own for label in head.labels.classes]])
        with learner.under(Route(slots=torch.tensor([slot]), classes=classes)):
            assert learner.host.write([row], 3) == [written]


def test_in_training_only_the_tasks_own_labels_compete() -> None:
    """The loss of a task's row is a softmax over its labels; the growing head's other rows have no part in it."""
    learner = learned(epi(), "roberta")
    rows = learner.encode(TASKS[1].examples("train"))
    with torch.no_grad():
        logits, labels = learner.predictions(rows)
    head = learner.host.family.head
    assert head is not None
    assert head.labels.classes == ["yes", "no", "red", "green", "maybe", "blue"]
    assert logits.isinf().tolist() == [[True, True, False, False, True, True]] * len(rows)
    assert set(labels.tolist()) == {2, 3}


def test_what_earlier_tasks_compute_stays(architecture: str) -> None:
    """Of rows that come with their task, under its own slot, bit for bit: nothing of another task reaches them."""
    tasks = [TASKS[0], TASKS[1], tiny_task("fish", labels=("maybe", "blue"))]  # no label twice
    learner = learned(epi(), architecture, tasks[:1])
    rows = learner.encode(tasks[0].examples("test"))
    with torch.no_grad():
        before, _ = learner.predictions(rows)
        for task in tasks[1:]:
            with torch.enable_grad():
                learner.learn(task)
        after, _ = learner.predictions(rows)
    if architecture == "roberta":  # its head has more columns now, which are rounded in another order
        torch.testing.assert_close(after[:, :2], before, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(after, before)


def test_the_first_task_is_that_of_a_plain_lora(architecture: str) -> None:
    """What is trained has the same bits."""
    routed, plain = (learned(method, architecture, TASKS[:1]) for method in (epi(), inc_lora()))
    found, expected = (
        {name: tensor for owner in learner.owners.values() for name, tensor in owner.tensors().items()}
        for learner in (routed, plain)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_step_of_a_later_task_costs_what_the_first_one_costs() -> None:
    """Counted in operations, for a batch whose rows have two slots, in training and at test."""

    def operations(tasks: int, training: bool) -> int:
        learner = Learner(tiny_host("llama"), epi(), seed=5, optim=OPTIM)
        for _ in range(tasks):
            learner.adapter.grow()
            learner.adapter.fresh(0)
        rows = learner.encode(TASKS[0].examples("train"))[:4]
        learner.host.model.train(training)
        with (
            learner.under(Route(slots=torch.tensor([tasks - 1, 0, 0, tasks - 1]))),
            FlopCounterMode(display=False) as it,
        ):
            logits, _ = learner.predictions(rows)
            if training:
                logits.sum().backward()
        total: int = it.get_total_flops()
        return total

    for training in (True, False):
        assert operations(2, training) == operations(20, training) > 0


def test_a_task_without_labels_is_one_class() -> None:
    free = replace(TASKS[1], labels=None)
    learner = learned(epi(), "t5", [TASKS[0], free])
    slots = learner.state.parts["nearest_class"].slots
    assert [len(slot.means) for slot in slots] == [2, 1]
    assert slots[1].labels == []
    states = torch.from_numpy(states_of(Learner(tiny_host("t5"), seq_lora(), optim=OPTIM), free, "train"))
    assert torch.allclose(slots[1].means[0], states.mean(0), rtol=1e-5, atol=1e-6)


def test_rehearsed_rows_are_read_by_their_own_slot() -> None:
    learner = learned(build_method("epi+replay", {"replay": {"per_task": 3}}), "t5", TASKS[:2])
    rows = [learner.encode(task.examples("train"))[0] for task in TASKS[:2]]
    batch = learner.host.family.batch(rows)
    with learner.host.family.routed(batch):
        assert learner.router is not None
        assert learner.router.newest is not None
        assert torch.equal(weights_of(learner), torch.eye(2))


@pytest.mark.parametrize("method", ["epi", "demix"])
def test_a_micro_batch_of_earlier_rows_alone_moves_nothing(method: str, architecture: str) -> None:
    """Their slots are frozen; and yet there is a graph to go back through, and every parameter has its zeros."""
    learner = learned(build_method(method, {"reduction": 4} if method == "demix" else {}), architecture, TASKS[:2])
    rows = learner.encode(TASKS[0].examples("train"))[:3]
    learner.adapter.grow()
    learner.adapter.fresh(0)
    learner.host.model.train()
    loss = learner.loss_sum(rows)
    loss.backward()
    assert loss > 0
    for group in learner.adapter.parameter_groups():
        for parameter in group.parameters:
            assert parameter.grad is not None
            assert not parameter.grad.any()


def weights_of(learner: Learner) -> Tensor:
    assert learner.router is not None
    assert learner.router.newest is not None
    weights = learner.router.newest.as_weights(learner.adapter.tasks)
    assert weights is not None
    return weights


def test_of_a_task_learned_again_the_newest_slot_learns() -> None:
    learner = learned(epi(), "t5", TASKS[:2])
    before = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    learner.learn(TASKS[0], again=True)
    after = learner.adapter.tensors()
    ups = [name for name in before if name.endswith("up.weight")]
    assert ups
    assert all(after[name].abs().max() > 0 for name in ups)
    assert all(torch.equal(after[name.replace("up.weight", "past_up")][1], before[name].T) for name in ups)
    rows = learner.encode(TASKS[0].examples("train"))[:1]
    with learner.host.family.routed(learner.host.family.batch(rows)):
        assert torch.equal(weights_of(learner), torch.tensor([[0.0, 0.0, 1.0]]))


def test_a_head_for_each_task_is_given_the_task_and_needs_no_mask() -> None:
    learner = Learner(tiny_host("roberta"), epi(), seed=5, optim=OPTIM, head="per_task")
    for task in TASKS:
        learner.learn(task)
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        assert set(answers) <= set(task.labels or ())
    assert learner.traits["task identity at test"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="it chooses among slots, one for each task; inc_lora has them"):
        seq_lora().with_routing(NearestClass())
    with pytest.raises(RecipeError, match=r"tolerance: 1.0 is not in \[0, 1\)"):
        epi(tolerance=1.0)
