"""MoCL: its weights against loops in float64, what the matching term pulls where, and what each variant composes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import DataError, RecipeError
from nacre.functional.composition import composition_weights
from nacre.functional.prompt_pool import key_distances
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.mocl import mocl
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates
from nacre.parts.key_matching import KeyMatching, Matching
from nacre.parts.part import MicroBatch, Step
from nacre.registry import build_method
from nacre.tasks.template import Example

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(method: Method, architecture: str, count: int = 3) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM)
    for task in TASKS[:count]:
        learner.learn(task)
    return learner


def naive_weights(query: Tensor, keys: Tensor, last: int, sharpness: float | None) -> list[float]:
    """Of one row."""
    cosines = [float(query @ key / (query.norm() * key.norm())) for key in keys[: last + 1]]
    rest = [0.0] * (len(keys) - last - 1)
    if sharpness is None:
        return cosines + rest
    powers = [math.exp(sharpness * cosine) for cosine in cosines]
    return [power / sum(powers) for power in powers] + rest


@pytest.mark.parametrize("sharpness", [8.0, 1.0, None])
def test_the_weights_against_a_loop(sharpness: float | None) -> None:
    queries, keys = drawn(6, 5, seed=1), drawn(4, 5, seed=2)
    last = torch.tensor([0, 1, 2, 3, 3, 1])
    found = composition_weights(1 - key_distances(queries, keys), last, sharpness)
    expected = [naive_weights(query, keys, int(own), sharpness) for query, own in zip(queries, last, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_one_task_has_the_weight_one() -> None:
    found = composition_weights(drawn(4, 1, seed=1), torch.zeros(4, dtype=torch.long), 8.0)
    assert torch.equal(found, torch.ones(4, 1, dtype=torch.float64))


def test_the_matching_term_alone_ends_at_the_mean_of_the_normalized_queries() -> None:
    """Its maximum over directions: sum_b cos(q_b, v) is largest for v parallel to sum_b q_b / |q_b|."""
    queries, key = drawn(9, 5, seed=1) + 0.5, drawn(1, 5, seed=2).requires_grad_()
    optimizer = torch.optim.LBFGS([key], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def step() -> float:
        optimizer.zero_grad()
        term = key_distances(queries, key).mean()
        term.backward()  # type: ignore[no-untyped-call]
        return float(term.detach())

    optimizer.step(step)
    best = (queries / queries.norm(dim=1, keepdim=True)).mean(0)
    assert abs(float(torch.cosine_similarity(key.detach()[0], best, dim=0)) - 1) < 1e-10


def queries_of(architecture: str, task: int) -> Tensor:
    """Of the test rows, one by one, in a host that has learned nothing."""
    bare = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    rows = bare.encode(TASKS[task].examples("test"))
    return torch.cat([bare.pooled_states([row], PooledStates()) for row in rows]).double()


def weights_at_test(learner: Learner, task: int) -> Tensor:
    host = learner.host
    batch = host.on_device(host.family.prompts(learner.encode(TASKS[task].examples("test"))))
    assert learner.router is not None
    with torch.no_grad(), host.family.routed(batch):
        newest = learner.router.newest
    assert newest is not None
    assert newest.weights is not None
    return newest.weights.double()


@pytest.mark.parametrize("composes", ["given", "predicted", "all"])
def test_each_variant_composes_what_it_says(composes: str, architecture: str) -> None:
    learner = learned(build_method("mocl", {"composes": composes}), architecture)
    keys = learner.owners["routing"].tensors()["keys"].double()
    assert keys.shape[0] == 3
    for task in range(3):
        expected = []
        for query in queries_of(architecture, task):
            cosines = [float(torch.cosine_similarity(query, key, dim=0)) for key in keys]
            last = {"given": task, "predicted": cosines.index(max(cosines)), "all": 2}[composes]
            expected.append(naive_weights(query, keys, last, 8.0))
        found = weights_at_test(learner, task)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)
    assert learner.traits["task identity at test"] == (composes == "given")
    if composes == "given":
        with pytest.raises(DataError, match="key_matching must be given the task of every input"):
            learner.predict(["Is it an animal ?"])


@pytest.mark.parametrize("of", ["cosine", "weight"])
def test_the_matching_term_is_the_mean_over_rows_and_pulls_the_newest_key(of: str, architecture: str) -> None:
    learner = learned(build_method("mocl+replay", {"matching_of": of, "replay": {"per_task": 3}}), architecture, 2)
    (term,) = learner.method.batch_terms
    assert isinstance(term, Matching)
    rows = learner.encode(TASKS[1].examples("train"))[:3] + learner.encode(TASKS[0].examples("train"))[:2]
    (group,) = learner.owners["routing"].parameter_groups()
    (key,) = group.parameters
    key.requires_grad_(True)
    batch = learner.host.on_device(learner.host.family.batch(rows))
    logits, labels = learner.host.family.predictions(learner.host.model, batch)
    assert learner.router is not None
    route = learner.router.newest
    assert route is not None
    assert route.weights is not None
    learner.step = Step(0, 1, 1e-3, rows=rows)
    value = term.value(learner, MicroBatch(rows, batch, logits, labels, route))
    keys = learner.owners["routing"].tensors()["keys"]
    bare = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    queries = torch.cat([bare.pooled_states([row], PooledStates()) for row in bare.encode(_examples())])
    matched = torch.cosine_similarity(queries, keys[1], dim=1) if of == "cosine" else route.weights[:3, 1]
    tokens = sum(row.num_target_tokens for row in rows)
    torch.testing.assert_close(value, (1 - matched).sum() / 5 * tokens, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(value, [key])
    assert gradient.abs().sum() > 0
    assert torch.equal(route.weights[3:], torch.tensor([[1.0, 0.0]]).repeat(2, 1))  # rows of the earlier task


def _examples() -> list[Example]:
    return list(TASKS[1].examples("train")[:3])


def test_keys_are_drawn_where_the_sheet_says_and_earlier_ones_stay() -> None:
    never = OPTIM.model_copy(update={"learning_rate": 1e-30})
    for start, low in (("uniform", 0.0), ("normal", -9.0)):
        learner = Learner(tiny_host("t5"), build_method("mocl", {"key_start": start}), seed=5, optim=never)
        for task in TASKS[:2]:
            learner.learn(task)
        keys = learner.owners["routing"].tensors()["keys"]
        assert (keys.min() >= 0) == (low == 0.0)
        assert not torch.equal(keys[0], keys[1])
    learner = learned(mocl(), "t5", 2)
    before = learner.owners["routing"].tensors()["keys"].clone()
    learner.learn(TASKS[2])
    assert torch.equal(learner.owners["routing"].tensors()["keys"][:2], before)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="it weights slots, one for each task"):
        seq_lora().with_routing(KeyMatching())
    with pytest.raises(RecipeError, match=r"sharpness: 0.0 is not positive"):
        mocl(sharpness=0.0)
    with pytest.raises(RecipeError, match=r"key_rate: -1.0 is not positive"):
        mocl(key_rate=-1.0)
    with pytest.raises(RecipeError, match=r"The weight of the matching term is -1.0"):
        mocl(matching=-1.0)
