"""The parts' interfaces suffice: routing by Gaussians and progressive prompts, written on them alone.
The contract holds them as it holds every method; here is what is their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.contract import same_state, state_of
from helpers.proofs import PROOFS, Gaussians, NearestGaussian, epi_like
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError, SlotTaken
from nacre.evaluation.decoding import token_budget
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PROOFS)
def method(request: pytest.FixtureRequest) -> Method:
    return PROOFS[request.param]()


def learned(method: Method, architecture: str, count: int = 3) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM)
    for task in TASKS[:count]:
        learner.learn(task)
    return learner


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_host_comes_back_bit_for_bit(method: Method, architecture: str) -> None:
    host = tiny_host(architecture)
    before = {name: tensor.clone() for name, tensor in host.body.state_dict().items()}
    learner = Learner(host, method, optim=OPTIM)
    for task in TASKS:
        learner.learn(task)
    learner.remove()
    assert same(before, dict(host.body.state_dict()))
    assert host.family.router is None


def test_a_saved_learner_goes_on_as_if_nothing_had_happened(method: Method, architecture: str, tmp_path: Path) -> None:
    learner = learned(method, architecture, 2)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture), method)
    assert same(state_of(learner), state_of(loaded))
    assert same_state(learner, loaded)
    for each in (learner, loaded):
        each.learn(TASKS[2])
    assert same(state_of(learner), state_of(loaded))
    assert same_state(learner, loaded)
    assert learner.answer(TASKS) == loaded.answer(TASKS)


def test_learning_twice_gives_the_same_bits(method: Method, architecture: str) -> None:
    assert same(state_of(learned(method, architecture, 2)), state_of(learned(method, architecture, 2)))


def test_gaussians_are_those_of_the_bare_host_in_any_batches(architecture: str) -> None:
    learner = learned(epi_like(), architecture)
    state = learner.state.parts["nearest_gaussian"]
    assert isinstance(state, Gaussians)
    bare = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    rows = bare.encode(TASKS[0].examples("train"))
    alone = torch.cat([bare.pooled_states([row], PooledStates()) for row in rows]).double()
    assert (state.means["animals"] - alone.mean(0)).abs().max() < 1e-5
    assert state.rows == 36


def test_one_hot_rows_are_answered_by_their_slot_alone(architecture: str) -> None:
    """Rows of a task that was routed rightly: their logits are those of a host with that task's slot only."""
    learner = learned(epi_like(), architecture)
    rows = learner.encode(TASKS[1].examples("test"))
    with torch.no_grad():
        with learner.under(Route(slots=torch.ones(len(rows), dtype=torch.long))):
            forced, _ = learner.predictions(rows)
        # Read as training does, with the task given.
        given, _ = learner.predictions(rows)
    assert torch.equal(forced, given)


def test_at_test_nobody_says_the_task(architecture: str) -> None:
    """The router chooses by the text: answers are those under the routes that the Gaussians give."""
    learner = learned(epi_like(), architecture)
    routing = learner.method.routing
    assert isinstance(routing, NearestGaussian)
    assert not learner.traits["task identity at test"]
    rows = learner.encode(TASKS[2].examples("test"))
    chosen = routing.nearest(learner.state.parts[routing.key], learner.pooled_states(rows, routing.states).double())
    answers = learner.answer([TASKS[2]])[0]
    budget = token_budget(learner.host, [TASKS[2]], learner.lengths, learner.decoding)
    for number, (row, slot) in enumerate(zip(rows, chosen.tolist(), strict=True)):
        weights = torch.nn.functional.one_hot(torch.tensor([slot]), 3).float()
        with learner.under(Route(weights)):
            assert learner.host.write([row], budget) == [answers[number]]


def test_a_routing_without_slots_is_refused() -> None:
    with pytest.raises(RecipeError, match="it chooses among one LoRA for each task"):
        seq_lora().with_routing(NearestGaussian())
    with pytest.raises(SlotTaken, match="already has a routing"):
        inc_lora().with_routing(NearestGaussian()).with_routing(NearestGaussian())


def test_bypassed_is_the_bare_host(method: Method, architecture: str) -> None:
    learner = learned(method, architecture, 2)
    bare = tiny_host(architecture)
    with torch.no_grad(), learner.bypassed():
        prompts = learner.host.family.prompts(learner.encode(TASKS[0].examples("test")))
        inputs = {name: prompts[name] for name in ("input_ids", "attention_mask")}
        ours = learner.host.body(**inputs, **_start(learner, len(inputs["input_ids"])))
    with torch.no_grad():
        theirs = bare.body(**inputs, **_start(learner, len(inputs["input_ids"])))
    assert torch.equal(ours[0], theirs[0])


def _start(learner: Learner, rows: int) -> dict[str, Tensor]:
    if learner.host.family.name != "encoder-decoder":
        return {}
    return {"decoder_input_ids": torch.zeros(rows, 1, dtype=torch.long)}
