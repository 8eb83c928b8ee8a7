"""GainLoRA: gates that a loop gives, shut on earlier inputs, times InfLoRA's updates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.contract import state_of
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError, TrainingError
from nacre.events import Event, StepTaken, TrainingPrepared
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.gain_lora import gain_lora
from nacre.methods.inc_lora import inc_lora
from nacre.methods.inf_lora import inf_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.learned_gates import GateBases, KeptGates, LearnedGates
from nacre.parts.part import LearnerView, Reading
from nacre.parts.task_gates import TaskGates
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", labels=("maybe", "no", "blue")),
]
TINY: dict[str, Any] = {"energy": 0.6, "gate_width": 12}


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gates_in(learner: Learner) -> TaskGates:
    gates = learner.owners["routing"]
    assert isinstance(gates, TaskGates)
    return gates


def learned(
    architecture: str, tasks: list[Task] = TASKS, dtype: torch.dtype = torch.float32, width: int = 16, **settings: Any
) -> Learner:
    """Off the start, where updates are zero and gates have no gradient."""

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    method = gain_lora(**{**TINY, **settings})
    learner = Learner(tiny_host(architecture, dtype, width=width), method, seed=5, optim=OPTIM, on_event=watch)
    for task in tasks:
        learner.learn(task)
    return learner


def rows_of(learner: Learner, number: int, split: str = "test") -> list[Encoded]:
    return learner.encode(TASKS[number].examples(split))


def weights_of(learner: Learner, rows: list[Encoded]) -> Tensor:
    """As the seam gives them to the host."""
    family = learner.host.family
    batch = learner.host.on_device(family.prompts(rows))
    with family.routed(batch), torch.no_grad():
        assert learner.router is not None
        assert learner.router.newest is not None
        assert learner.router.newest.weights is not None
        return learner.router.newest.weights.clone()


def gates_by_hand(learner: Learner, rows: list[Encoded]) -> np.ndarray:
    """Row by row and task by task, from the saved tensors."""
    tensors = {name: tensor.double().numpy() for name, tensor in gates_in(learner).tensors().items()}
    found = []
    for row in rows:
        pooled = learner.pooled_states([row], PooledStates("words")).double().numpy()[0]
        own = []
        for inner, outer, key in zip(*(tensors[f"gate_{part}"] for part in ("inner", "outer", "key")), strict=True):
            first = inner @ pooled / (1 + np.exp(-inner @ pooled))
            codes = outer @ first / (1 + np.exp(-outer @ first))
            cosine = codes @ key / np.linalg.norm(codes) / np.linalg.norm(key)
            own.append(abs(2 / (1 + np.exp(-4 * cosine)) - 1))
        found.append(own)
    return np.array(found)


def test_weights_are_the_gates_of_a_loop_and_need_not_sum_to_one(architecture: str) -> None:
    learner = learned(architecture)
    rows = [row for number in range(3) for row in rows_of(learner, number)]
    found = weights_of(learner, rows)
    np.testing.assert_allclose(found.numpy(), gates_by_hand(learner, rows), rtol=0, atol=1e-4)
    assert found.shape == (len(rows), 3)
    assert (found.sum(1) - 1).abs().max() > 0.01
    assert float(found.max()) < 0.9641


def test_one_task_is_its_gate_times_its_lora(architecture: str) -> None:
    """Between tasks: what the host computes is what it computes with the gate's value given."""
    learner = learned(architecture, TASKS[:1], torch.float64)
    rows = rows_of(learner, 0, "train")
    with torch.no_grad():
        found, _ = learner.predictions(rows)
        with learner.under(Route(torch.from_numpy(gates_by_hand(learner, rows)))):
            given, _ = learner.predictions(rows)
        with learner.under(Route(torch.ones(len(rows), 1))):
            ungated, _ = learner.predictions(rows)
    torch.testing.assert_close(found, given, rtol=0, atol=1e-5)
    assert (found - ungated).abs().max() > 1e-3


def test_gates_that_are_always_open_are_inf_lora(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, to rounding: the routed path adds the same numbers in another order."""

    def ones(self: LearnedGates, learner: LearnerView, reading: Reading) -> Route | None:
        slots = learner.adapter.tasks
        return Route(torch.ones(len(reading.tasks), slots, device=learner.host.device)) if slots else None

    monkeypatch.setattr(LearnedGates, "route", ones)
    optim = OPTIM.model_copy(update={"max_grad_norm": None})
    found = []
    for method in (gain_lora(dropout=0.0, **TINY), inf_lora(dropout=0.0, energy=0.6)):
        learner = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=optim)
        for task in TASKS[:2]:
            learner.learn(task)
        found.append(state_of(learner))
    for name, tensor in found[1].items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-7, atol=1e-7)


def test_a_gate_begins_as_the_last_one_with_a_key_outside_earlier_codes(architecture: str) -> None:
    learner = learned(architecture, TASKS[:2], torch.float64)
    before = {name: tensor.clone() for name, tensor in gates_in(learner).tensors().items()}
    known = learner.remembered(learner.method.routing, GateBases)  # type: ignore[arg-type]
    assert known is not None
    started: dict[str, Tensor] = {}

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            started.update({name: tensor.clone() for name, tensor in gates_in(learner).tensors().items()})

    learner.on_event = watch
    learner.learn(TASKS[2])
    for name, tensor in before.items():
        assert torch.equal(started[name][:2], tensor)
        assert torch.equal(gates_in(learner).tensors()[name][:2], tensor), "earlier gates stay"
    for name in ("gate_inner", "gate_outer"):
        assert torch.equal(started[name][2], before[name][1])
    key = started["gate_key"][2]
    assert float((known.bases["gate_key"] @ key).abs().max()) < 1e-12
    pooled = learner.pooled_states(rows_of(learner, 2, "train"), PooledStates("words")).double()
    inner, outer = before["gate_inner"][1], before["gate_outer"][1]
    codes = torch.nn.functional.silu(torch.nn.functional.silu(pooled @ inner.T) @ outer.T)
    moment = (codes.T @ codes / len(codes)).numpy()
    basis = known.bases["gate_key"].numpy()
    left, _, _ = np.linalg.svd(moment - basis.T @ basis @ moment)
    assert abs(float(key.numpy() @ left[:, 0]) / float(key.norm())) == pytest.approx(1, abs=1e-6)


def test_in_every_step_changes_stay_outside_earlier_inputs(architecture: str) -> None:
    learner = learned(architecture, TASKS[:1], torch.float64)
    known = learner.remembered(learner.method.routing, GateBases)  # type: ignore[arg-type]
    assert known is not None
    started: dict[str, Tensor] = {}
    inside: list[float] = []
    moved: list[float] = []

    def watch(event: Event) -> None:
        newest = gates_in(learner).newest
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=2)
            started.update({group: parameter.detach().clone() for group, parameter in newest.items()})
        if isinstance(event, StepTaken):
            for group, parameter in newest.items():
                change = parameter.detach() - started[group]
                inside.append(float((change @ known.bases[group].T).abs().max()))
                moved.append(float(change.abs().max()))

    learner.on_event = watch
    learner.learn(TASKS[1])
    assert max(inside) < 1e-12
    assert min(moved) > 1e-4


def test_old_answers_stay_where_everything_is_protected(architecture: str) -> None:
    """In float64, with energy 1 and room for it: the new gate is shut on old rows, and old logits stay.

    Queries are float32, and directions below a millionth of the inputs' size count as rounding.
    """
    tasks = [replace(task, train=task.train[:3]) for task in TASKS]
    settings: dict[str, Any] = {"energy": 1.0, "gate_width": 40, "rank": 4, "dropout": 0.0}
    learner = learned(architecture, tasks[:1], torch.float64, width=160, **settings)
    rows = learner.encode(tasks[0].examples("train"))
    with torch.no_grad():
        before, labels = learner.predictions(rows)
    learner.learn(tasks[1])
    with torch.no_grad():
        after, _ = learner.predictions(rows)
    weights = weights_of(learner, rows)
    assert float(weights[:, 1].max()) < 1e-5
    assert float(weights[:, 0].min()) > 0.01
    assert float(weights_of(learner, learner.encode(tasks[1].examples("train")))[:, 1].min()) > 0.01
    kept = labels != IGNORED
    torch.testing.assert_close(after[kept][:, : before.shape[-1]], before[kept], rtol=0, atol=1e-4)


def test_a_key_that_finds_no_direction_stops_learning_with_a_message() -> None:
    learner = learned("llama", TASKS[:1], energy=0.6, gate_width=12)
    routing = learner.method.routing
    assert isinstance(routing, LearnedGates)
    known = learner.remembered(routing, GateBases)
    assert known is not None
    learner.remember(routing, GateBases({**known.bases, "gate_key": torch.eye(16)}))
    with pytest.raises(TrainingError, match="leave no direction for the new task's key"):
        learner.learn(TASKS[1])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="it weights slots, one for each task; inc_lora has them"):
        seq_lora().with_routing(LearnedGates())
    with pytest.raises(RecipeError, match="needs one; here are"):
        inc_lora().with_gradient_rule(KeptGates())
    with pytest.raises(RecipeError, match="width"):
        gain_lora(gate_width=0)
    with pytest.raises(RecipeError, match=r"energy: 0\.0 is not in"):
        gain_lora(energy=0.0)
