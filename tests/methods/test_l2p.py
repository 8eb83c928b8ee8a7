"""L2P: which prompts a row chooses, where gradients go, and that a row never depends on its neighbors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.prompt import PlacedPrompt, Prompt
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.events import Event, StepTaken
from nacre.functional.losses import IGNORED
from nacre.functional.prompt_pool import frequency_penalties, key_distances, nearest_keys
from nacre.learning.learner import Learner
from nacre.learning.router import LearnerRouter
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.l2p import l2p
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.prompt_pool import ChoiceCounts, PlacedKeys

OPTIM = Optim(batch_size=4, learning_rate=0.05, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
SMALL = {"pool": 5, "prompt_length": 2, "select": 2}


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(architecture: str, method: Method, count: int = 2, **changed: object) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=3, optim=OPTIM.model_copy(update=changed))
    for task in TASKS[:count]:
        learner.learn(task)
    return learner


def keys_of(learner: Learner) -> Tensor:
    owner = learner.owners["routing"]
    assert isinstance(owner, PlacedKeys)
    assert owner.keys is not None
    return owner.keys


def logits(learner: Learner, start: int = 0, stop: int | None = None) -> Tensor:
    """Of the target tokens, row after row."""
    found, labels = learner.predictions(learner.encode(TASKS[0].examples("test")[start:stop]))
    return found[labels != IGNORED]


# The mathematics


def test_distances_and_choice_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    keys = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    penalties = torch.rand(5, generator=generator, dtype=torch.float64)
    distances = key_distances(query, keys)
    for b in range(7):
        q = query[b].tolist()
        own = []
        for k in keys.tolist():
            dot = sum(x * y for x, y in zip(q, k, strict=True))
            own.append(1 - dot / math.sqrt(sum(x * x for x in q) * sum(y * y for y in k)))
        assert distances[b].tolist() == pytest.approx(own, abs=1e-12)
        ranked = sorted(range(5), key=lambda i: own[i])
        assert nearest_keys(distances, 3)[b].tolist() == sorted(ranked[:3])
        ranked = sorted(range(5), key=lambda i: own[i] * penalties[i].item())
        assert nearest_keys(distances, 3, penalties)[b].tolist() == sorted(ranked[:3])


def test_equal_keys_are_taken_in_their_order() -> None:
    assert nearest_keys(torch.ones(2, 4), 2).tolist() == [[0, 1], [0, 1]]


def test_frequencies() -> None:
    counts = torch.tensor([3, 0, 1])
    literal, smoothed = (frequency_penalties(counts, smoothed=smoothed) for smoothed in (False, True))
    assert literal is not None
    assert smoothed is not None
    assert literal.tolist() == [0.75, 0.0, 0.25]
    assert smoothed.tolist() == pytest.approx([4 / 7, 1 / 7, 2 / 7])
    assert frequency_penalties(torch.zeros(3, dtype=torch.long), smoothed=False) is None


def test_the_pull_alone_ends_at_the_mean_direction_of_the_queries() -> None:
    queries = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    key = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([key], max_iter=200, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = key_distances(queries, key).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    mean = (queries / queries.norm(dim=1, keepdim=True)).mean(0)
    assert torch.cosine_similarity(key[0], mean, dim=0).item() == pytest.approx(1, abs=1e-9)


# The method


def test_gradients_reach_what_was_chosen_alone(architecture: str) -> None:
    """The pull's gradient is the closed form of the cosine's; unselected prompts and keys have exactly none."""
    learner = learned(architecture, l2p(**SMALL, pull=0.7), 1)
    adapter = learner.adapter
    assert isinstance(adapter, PlacedPrompt)
    assert adapter.prompts.newest is not None
    keys, prompts = keys_of(learner), adapter.prompts.newest
    rows = learner.encode(TASKS[0].examples("train")[:1])
    query = learner.pooled_states(rows, PooledStates())
    chosen = nearest_keys(key_distances(query, keys.detach()), 2)[0].tolist()
    for tensor in (keys, prompts):
        tensor.requires_grad_(True)
    loss = learner.loss(learner.host.model, rows, learner.host.family.batch(rows))
    (term,) = learner.method.batch_terms
    total = loss.task + term.weight(1) * loss.terms[term.key]
    keys.grad = prompts.grad = None
    total.backward()
    by_prompt = prompts.grad.view(5, 2, -1)
    for number in range(5):
        is_chosen = number in chosen
        assert bool(by_prompt[number].abs().sum() > 0) is is_chosen
        k, q = keys[number].detach().double(), query[0].double()
        cosine = (k @ q) / (k.norm() * q.norm())
        pull = -(q / q.norm() - cosine * k / k.norm()) / k.norm() if is_chosen else torch.zeros_like(k)
        expected = 0.7 * pull * rows[0].num_target_tokens
        assert torch.allclose(keys.grad[number].double(), expected, atol=1e-5)


@pytest.mark.parametrize("pool", [1, 3])
def test_a_pool_that_is_taken_whole_is_prompt_tuning(architecture: str, pool: int) -> None:
    tuned = Method(title="Prompt tuning", sources=(), adapter=Prompt(tokens=3 * pool, placeholders=3 * pool))
    chosen = l2p(pool=pool, prompt_length=3, select=pool)
    # The norm of all gradients holds the keys'.
    one, other = (learned(architecture, method, max_grad_norm=None) for method in (chosen, tuned))
    tables = [learner.adapter.tensors() for learner in (one, other)]
    assert tables[0].keys() == tables[1].keys()
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])
    assert torch.equal(logits(one), logits(other))


def route_of(learner: Learner, rows: list[Encoded]) -> Route:
    """The route under which these rows are answered."""
    family = learner.host.family
    router = family.router
    assert isinstance(router, LearnerRouter)
    with family.routed(family.prompts(rows)):
        assert router.newest is not None
        return router.newest


def test_a_row_does_not_depend_on_its_neighbors(architecture: str) -> None:
    learner = learned(architecture, l2p(**SMALL))
    rows = learner.encode(TASKS[0].examples("test"))
    query = learner.pooled_states(rows, PooledStates())
    mean = query.mean(0)
    apart = query - (query @ mean)[:, None] * mean / (mean @ mean)  # else all of a tiny model's rows choose alike
    keys_of(learner).data.copy_(apart[:5])
    chosen = route_of(learner, rows).prompts
    assert chosen is not None
    assert len({tuple(row) for row in chosen.tolist()}) > 1, "rows choose differently"
    alone = torch.cat([logits(learner, number, number + 1) for number in range(len(rows))])
    assert torch.allclose(logits(learner), alone, atol=1e-5)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = route_of(learner, [rows[number] for number in order]).prompts
    assert shuffled is not None
    assert torch.equal(shuffled, chosen[order])


def test_nobody_looks_at_the_task_or_at_frequencies_when_answering(architecture: str) -> None:
    learner = learned(architecture, l2p(**SMALL, diversify="frequency"))
    assert not learner.method.traits["task identity at test"]
    rows = learner.encode(TASKS[0].examples("test"))
    others = [replace(row, task="fish") for row in rows]
    own, renamed = route_of(learner, rows).prompts, route_of(learner, others).prompts
    assert own is not None
    assert renamed is not None
    assert torch.equal(own, renamed)
    query = learner.pooled_states(rows, PooledStates())
    nearest = nearest_keys(key_distances(query, keys_of(learner)), 2)
    assert torch.equal(own[:, ::2] // 2, nearest)


def test_frequencies_change_what_is_chosen_in_training(architecture: str) -> None:
    seen: list[Route] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken) and learner.task_number == 2:
            router = learner.host.family.router
            assert isinstance(router, LearnerRouter)
            assert router.newest is not None
            seen.append(router.newest)

    learner = Learner(tiny_host(architecture), l2p(**SMALL, diversify="frequency"), seed=3, optim=OPTIM, on_event=watch)
    assert learner.method.traits["task boundaries in training"]
    assert not l2p().traits["task boundaries in training"]
    learner.learn(TASKS[0])
    counted = learner.remembered(learner.method.routing, ChoiceCounts)
    assert counted is not None
    assert counted.counts.sum() >= 2 * len(TASKS[0].train)
    never = set((counted.counts == 0).nonzero().flatten().tolist())
    learner.learn(TASKS[1])
    for route in seen:
        assert route.prompts is not None
        chosen = {number // 2 for number in route.prompts.flatten().tolist()}
        assert len(never & chosen) == min(2, len(never)), "prompts that were never chosen come first"
    again = learner.remembered(learner.method.routing, ChoiceCounts)
    assert again is not None
    assert again.counts.sum() > counted.counts.sum()


@pytest.mark.parametrize(
    ("settings", "says"), [({"select": 11}, "between 1 and 10"), ({"prompt_length": 0}, "at least one")]
)
def test_impossible_pools_are_refused(settings: dict[str, int], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        l2p(**settings)


def test_a_pool_needs_its_prompt() -> None:
    with pytest.raises(RecipeError, match="chooses among the rows of one shared prompt"):
        replace(l2p(), adapter=Prompt(tokens=3))
