"""Latent-LoRA: the blend against whole matrices, the posterior against scipy, and its degenerate cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from helpers.contract import state_of
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.latent import Latent, LatentSite
from nacre.adapters.route import Route
from nacre.errors import ModelError, RecipeError
from nacre.functional.gaussian_mixture import k_means
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.latent_lora import latent_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates
from nacre.parts.latent_orthogonality import LatentOrthogonality
from nacre.parts.mixture_routing import MixtureRouting, Mixtures
from nacre.seeds import derive
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", rows=16, labels=("maybe", "no", "blue")),
]
TINY: dict[str, Any] = {"rank": 4, "components": 2}


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(
    method: Method,
    architecture: str,
    tasks: list[Task] = TASKS,
    dtype: torch.dtype = torch.float32,
    epochs: int = 1,
) -> Learner:
    optim = OPTIM.model_copy(update={"epochs": epochs})
    learner = Learner(tiny_host(architecture, dtype), method, seed=5, optim=optim)
    for task in tasks:
        learner.learn(task)
    return learner


def routing_of(learner: Learner) -> MixtureRouting:
    routing = learner.method.routing
    assert isinstance(routing, MixtureRouting)
    return routing


def posterior(learner: Learner, states: Tensor) -> Tensor:
    known = learner.remembered(routing_of(learner), Mixtures)
    assert known is not None
    weights = routing_of(learner).answer(learner, known, states).weights
    assert weights is not None
    return weights


def test_a_site_blends_updates_between_its_own_singular_vectors() -> None:
    base = nn.Linear(7, 5, dtype=torch.float64)
    site = LatentSite(base, Latent(rank=3, alpha=6.0)).eval()
    cores = [torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    for core in cores:
        site.grow()
        site.fresh(0)
        assert site.core is not None
        with torch.no_grad():
            site.core.copy_(core)
    left, sizes, right = torch.linalg.svd(base.weight.detach(), full_matrices=False)
    # The site's signs are its own; a core means the same between other signs only if they are turned with it.
    turned = torch.diag((site.left * left[:, :3]).sum(0).sign())
    updates = [2.0 * left[:, :3] @ turned @ torch.diag(sizes[:3]) @ core @ turned @ right[:3] for core in cores]
    x, weights = torch.randn(2, 6, 7, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    together = base(x) + x @ sum(updates).T  # type: ignore[union-attr]
    torch.testing.assert_close(site(x), together, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(nn.functional.linear(x, site.effective_weight(), base.bias), together)  # type: ignore[arg-type]
    site.rows = weights
    blended = [base(x[b]) + x[b] @ sum(w * u for w, u in zip(weights[b], updates, strict=True)).T for b in range(2)]  # type: ignore[union-attr]
    torch.testing.assert_close(site(x), torch.stack(blended), rtol=1e-10, atol=1e-10)


def test_equal_cores_answer_alike_whatever_the_weights(architecture: str) -> None:
    learner = learned(latent_lora(**TINY), architecture, TASKS[:2], torch.float64)
    for module in learner.host.model.modules():
        if isinstance(module, LatentSite):
            assert module.core is not None
            module.past_core = module.core.detach()[None].clone()
    rows = learner.encode(TASKS[0].examples("test"))
    found = []
    for share in (0.0, 0.3, 1.0):
        weights = torch.tensor([[share, 1 - share]]).expand(len(rows), -1)
        with learner.under(Route(weights)), torch.no_grad():
            found.append(learner.predictions(rows)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-6)


def test_one_task_is_its_matrices_alone(architecture: str) -> None:
    """As in LoRA-XS; the weight of the only task is exactly one."""
    plain = Method(title="LoRA-XS", sources=(), adapter=Latent(rank=4))
    ours, theirs = (learned(method, architecture, TASKS[:1], torch.float64) for method in (latent_lora(**TINY), plain))
    one, other = state_of(ours), state_of(theirs)
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-8, atol=1e-8)
    assert ours.answer(TASKS[:1]) == theirs.answer(TASKS[:1])
    rows = ours.encode(TASKS[0].examples("test"))
    assert torch.equal(posterior(ours, ours.pooled_states(rows, routing_of(ours).states)), torch.ones(len(rows), 1))


def by_scipy(architecture: str, settings: dict[str, Any]) -> np.ndarray:
    """The posterior of all tasks' test rows, from all tasks' rows at once."""
    bare = Learner(tiny_host(architecture), seq_lora(), seed=5, optim=OPTIM)
    view = PooledStates("words", text=settings.get("text", "prompt"))

    def states(task: Task, split: str) -> np.ndarray:
        rows = sorted(
            bare.encode(task.examples(split)) if split == "train" else [], key=lambda row: (len(row.source), row.source)
        ) or bare.encode(task.examples(split))
        return torch.cat([bare.pooled_states([row], view) for row in rows]).double().numpy()

    clusters, around = [], []
    for task in TASKS:
        read = states(task, "train")
        assigned, means = k_means(torch.from_numpy(read), 2, 30, derive(5, "mixture_routing", task.name))
        clusters.append((np.bincount(assigned) / len(read), means.numpy()))
        center = means.numpy()[assigned] if settings.get("around") != "task" else read.mean(0)
        around.append(read - center)
    away = np.concatenate(around)
    covariance = away.T @ away / len(away)
    added = settings["epsilon"] * (np.trace(covariance) / len(covariance) if settings.get("scale") else 1.0)
    covariance += added * np.eye(len(covariance))
    tests = np.concatenate([states(task, "test") for task in TASKS])
    logs = [
        np.logaddexp.reduce(
            [np.log(pi) + multivariate_normal(mu, covariance).logpdf(tests) for pi, mu in zip(*own, strict=True)]
        )
        for own in clusters
    ]
    values = np.exp(np.stack(logs, 1) - np.max(logs, axis=0)[:, None])
    return np.asarray(values / values.sum(1, keepdims=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": 0.01},
        {"epsilon": 0.1, "around": "task", "text": "bare"},
        {"epsilon": 0.5, "scale": "relative"},
    ],
    ids=["absolute", "task", "relative"],
)
def test_the_weights_are_the_posterior_of_scipys_densities(architecture: str, settings: dict[str, Any]) -> None:
    learner = learned(latent_lora(**TINY, **settings), architecture)
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))]
    found = posterior(learner, learner.pooled_states(rows, routing_of(learner).states))
    expected = by_scipy(architecture, settings)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)
    assert len(set(expected.argmax(1).tolist())) > 1


def test_statistics_have_the_same_bits_in_any_order(architecture: str) -> None:
    turned = [replace(task, train=task.train[::-1]) for task in (TASKS[2], TASKS[0], TASKS[1])]
    one, other = learned(latent_lora(**TINY), architecture), learned(latent_lora(**TINY), architecture, turned)
    first, second = (learner.remembered(routing_of(learner), Mixtures) for learner in (one, other))
    assert first is not None
    assert second is not None
    assert torch.equal(first.scatter.matrix(), second.scatter.matrix())
    for ours, theirs in zip(first.slots, [second.slots[number] for number in (1, 2, 0)], strict=True):
        assert torch.equal(ours.means, theirs.means)
        assert torch.equal(ours.shares, theirs.shares)
    rows = [row for task in TASKS for row in one.encode(task.examples("test"))]
    states = one.pooled_states(rows, routing_of(one).states)
    torch.testing.assert_close(posterior(other, states)[:, [1, 2, 0]], posterior(one, states), rtol=1e-6, atol=1e-7)


def test_no_weight_is_no_penalty_and_a_weight_turns_updates_away(architecture: str) -> None:
    without = replace(latent_lora(**TINY), name="", penalties=())
    none, zero, much = (
        learned(method, architecture, TASKS[:2], epochs=10)
        for method in (without, latent_lora(orthogonality=0.0, **TINY), latent_lora(orthogonality=50.0, **TINY))
    )
    expected = state_of(none)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_of(zero).items())
    with torch.no_grad():
        values = [float(LatentOrthogonality().value(learner)) for learner in (none, much)]
    assert values[1] < 0.3 * values[0]


def test_mixtures_weight_other_adapters_too() -> None:
    learner = learned(inc_lora(rank=2).with_routing(MixtureRouting(components=2)), "t5")
    perturb(learner.host.model)
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))]
    weights = posterior(learner, learner.pooled_states(rows, routing_of(learner).states))
    with torch.no_grad(), learner.under(Route(weights)):
        given, _ = learner.predictions(rows)
    learner.serves = True
    with torch.no_grad():
        chosen, _ = learner.predictions(rows)
    torch.testing.assert_close(chosen, given, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(rows)))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="rank: 32 singular vectors were asked for, and "):
        Learner(tiny_host("llama"), latent_lora(), optim=OPTIM)
    with pytest.raises(RecipeError, match="it compares matrices between singular vectors, which latent_lora has"):
        inc_lora().with_penalty(LatentOrthogonality())
    with pytest.raises(RecipeError, match="rank: 0 is not a positive number of singular vectors"):
        latent_lora(rank=0)
    with pytest.raises(RecipeError, match=r"alpha: -1\.0 is not positive"):
        latent_lora(alpha=-1.0)
    with pytest.raises(RecipeError, match="epsilon"):
        latent_lora(epsilon=0.0)
    host = tiny_host("llama")
    linear = host.model.get_submodule("model.layers.0.self_attn.q_proj")
    linear.forward = lambda x: x  # type: ignore[method-assign]
    flags = [parameter.requires_grad for parameter in host.model.parameters()]
    with pytest.raises(ModelError, match="has no weight whose singular vectors could be taken"):
        Learner(host, latent_lora(**TINY), optim=OPTIM)
    assert [parameter.requires_grad for parameter in host.model.parameters()] == flags
