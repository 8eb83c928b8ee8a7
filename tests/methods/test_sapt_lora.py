"""SAPT-LoRA: the attention and its reflection against loops and closed forms in float64, and what is kept of a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.events import Event, StepTaken
from nacre.functional.shared_attention import attention_scores, reflection
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.sapt_lora import sapt_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates
from nacre.models.reader import reader_of
from nacre.parts.attentive_reflection import Attended
from nacre.parts.shared_attention import LARGEST_WORD, SharedAttention
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task("animals"), tiny_task("birds", labels=("red", "green")), tiny_task("fish", labels=("maybe", "blue"))]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(method: Method, architecture: str, tasks: Sequence[Task] = TASKS, **settings: Any) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM.model_copy(update=settings))
    for task in tasks:
        learner.learn(task)
    return learner


def naive_attention(e: Tensor, owned: dict[str, Tensor]) -> list[float]:
    """Of one row, in float64."""
    x = owned["second"] @ (owned["first"] @ e)
    x = x / (1 + (-x).exp())
    x = (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt()
    q = x * owned["norm_weight"] + owned["norm_bias"]
    powers = [math.exp(float(key @ q) / len(q) ** 0.5) for key in owned["keys"]]
    return [power / sum(powers) for power in powers]


def test_the_attention_against_a_loop() -> None:
    owned = {"keys": drawn(3, 5, seed=1), "first": drawn(4, 5, seed=2), "second": drawn(5, 4, seed=3)}
    owned |= {"norm_weight": drawn(5, seed=4), "norm_bias": drawn(5, seed=5)}
    pooled = drawn(6, 5, seed=6)
    norm = owned["norm_weight"], owned["norm_bias"]
    found = attention_scores(pooled, owned["keys"], owned["first"], owned["second"], norm).softmax(-1)
    expected = torch.tensor([naive_attention(row, owned) for row in pooled], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_reflection_is_a_mean_of_divergences_with_the_gradient_a_minus_abar() -> None:
    scores = drawn(5, 3, seed=1).requires_grad_()
    means = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]], dtype=torch.float64)
    numbers, sizes = [0, 0, 1, 1, 1], [2, 3]
    shares = torch.tensor([1 / sizes[number] for number in numbers], dtype=torch.float64)
    found = reflection(scores, means[numbers], shares)
    attention = scores.detach().softmax(-1)
    expected = 0.0
    for row, number in zip(attention, numbers, strict=True):
        for share, own in zip(means[number], row, strict=True):
            if share > 0:
                expected += float(share * (share.log() - own.log())) / sizes[number]
    assert abs(float(found) - expected) < 1e-12
    (gradient,) = torch.autograd.grad(found, [scores])
    torch.testing.assert_close(gradient, (attention - means[numbers]) * shares[:, None], rtol=1e-12, atol=1e-12)


def test_the_reflection_is_zero_at_equality() -> None:
    scores = drawn(4, 3, seed=1)
    value = reflection(scores, scores.softmax(-1), torch.ones(4, dtype=torch.float64))
    assert abs(float(value)) < 1e-14


def test_the_query_is_the_largest_word_without_padding_or_answer(architecture: str) -> None:
    """For each dimension, of the input's word embeddings alone; no layer of the host is run for it."""
    learner = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    rows = learner.encode(TASKS[0].examples("train"))
    runs: list[int] = []
    reader = reader_of(learner.host.body)
    hook = reader.register_forward_pre_hook(lambda *_: runs.append(1))
    found = learner.pooled_states(rows, LARGEST_WORD)
    hook.remove()
    assert not runs
    words: Any = reader
    table = words.get_input_embeddings().weight
    expected = torch.stack([table[list(row.source)].amax(0) for row in rows])
    assert torch.equal(found, expected.detach())
    assert len({len(row.source) for row in rows}) > 1
    with pytest.raises(RecipeError, match="layer: 9 is not a layer"):
        learner.pooled_states(rows, PooledStates(9, "max"))


def weights_of(learner: Learner, batch: Any) -> Tensor:
    assert learner.router is not None
    with torch.no_grad(), learner.host.family.routed(learner.host.on_device(batch)):
        route = learner.router.newest
    assert route is not None
    assert route.weights is not None
    return route.weights


def test_training_and_test_attend_alike_and_as_the_equations_say(architecture: str) -> None:
    learner = learned(sapt_lora(inputs="real", fraction=0.3), architecture)
    rows = learner.encode(TASKS[1].examples("test"))
    family = learner.host.family
    at_test, in_training = weights_of(learner, family.prompts(rows)), weights_of(learner, family.batch(rows))
    torch.testing.assert_close(at_test, in_training)
    owned = {name: tensor.double() for name, tensor in learner.owners["routing"].tensors().items()}
    pooled = learner.pooled_states(rows, LARGEST_WORD).double()
    expected = torch.tensor([naive_attention(row, owned) for row in pooled])
    torch.testing.assert_close(at_test, expected, rtol=1e-4, atol=1e-5)
    assert not learner.traits["task identity at test"]
    assert not learner.traits["rehearsal-free"]


def test_kept_are_inputs_and_the_mean_attention_of_all(architecture: str) -> None:
    learner = learned(sapt_lora(inputs="real", fraction=0.3), architecture, TASKS[:2])
    known = learner.state.parts["kept_inputs"]
    assert isinstance(known, Attended)
    assert [tuple(inputs.shape) for inputs in known.inputs] == [(3, 16), (3, 16)]
    assert torch.equal(known.means[0], torch.ones(1))
    rows = learner.encode(TASKS[1].examples("train"))
    mean = weights_of(learner, learner.host.family.prompts(rows)).mean(0)
    torch.testing.assert_close(known.means[1], mean, rtol=1e-4, atol=1e-5)
    all_inputs = learner.pooled_states(rows, LARGEST_WORD)
    assert all(any(torch.equal(kept, each) for each in all_inputs) for kept in known.inputs[1])
    before = [tensor.clone() for tensor in (*known.inputs, *known.means)]
    learner.learn(TASKS[2])
    later = learner.state.parts["kept_inputs"]
    assert isinstance(later, Attended)
    now = (*later.inputs[:2], *later.means[:2])
    assert len(later.means) == 3
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True)), "what was kept stays"


def test_the_reflection_holds_the_attention_of_earlier_inputs() -> None:
    """With much of it, earlier inputs attend as they did: the divergence from their stored mean is smaller."""

    def divergence(strength: float) -> float:
        learner = learned(sapt_lora(inputs="real", reflection=strength, fraction=1.0), "t5", TASKS, epochs=4)
        known = learner.state.parts["kept_inputs"]
        first = weights_of(learner, learner.host.family.prompts(learner.encode(TASKS[0].examples("train"))))
        assert torch.equal(known.means[0], torch.ones(1))
        return float(-first[:, 0].log().mean())

    assert divergence(10.0) < 0.5 * divergence(0.0)


def test_the_term_is_counted_from_the_second_task_on() -> None:
    seen: list[float] = []
    learner = Learner(tiny_host("t5"), sapt_lora(inputs="real", fraction=0.3), seed=5, optim=OPTIM)

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            seen.append(event.terms["reflection"])

    learner.on_event = watch
    learner.learn(TASKS[0])
    assert set(seen) == {0.0}
    assert [group.name for group in learner.trainable()] == ["down", "up"]
    learner.learn(TASKS[1])
    assert all(value > 0 for value in seen[3:])
    assert [group.name for group in learner.trainable()] == ["down", "up", "keys", "projection"]


def test_keeping_nothing_is_learning_without_the_term() -> None:
    one, other = (
        learned(sapt_lora(inputs="real", **settings), "t5") for settings in ({"fraction": 0.0}, {"reflection": 0.0})
    )
    for owner in ("adapter", "routing"):
        tensors = other.owners[owner].tensors()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in one.owners[owner].tensors().items())


@torch.no_grad()
def test_equal_loras_make_the_attention_irrelevant() -> None:
    with torch.enable_grad():
        learner = learned(sapt_lora(inputs="real"), "t5", TASKS[:2])
    for site in learner.adapter.sites.values():  # type: ignore[attr-defined]
        site.slots.past_down[0].copy_(site.slots.down.weight)
        site.slots.past_up[0].copy_(site.slots.up.weight.T)
    rows = learner.encode(TASKS[0].examples("test"))
    logits = []
    for weights in ([1.0, 0.0], [0.3, 0.7], [0.0, 1.0]):
        with learner.under(Route(torch.tensor([weights]).repeat(len(rows), 1))):
            logits.append(learner.predictions(rows)[0])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[0], logits[2], rtol=1e-4, atol=1e-5)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="it weights slots, one for each task"):
        seq_lora().with_routing(SharedAttention())
    with pytest.raises(RecipeError, match="width: 0 is not a positive number"):
        sapt_lora(attention_width=0)
    with pytest.raises(RecipeError, match=r"fraction: 2.0 is not in \[0, 1\]"):
        sapt_lora(fraction=2.0)
    with pytest.raises(RecipeError, match=r"The weight of the reflection is -1.0"):
        sapt_lora(reflection=-1.0)
