"""Why orthogonal parameters do not protect what was learnt: AM-LoRA's appendix 7.4 by number, and in training.

Methods like O-LoRA ask that the updates A (earlier task) and B (new task) of a weight be orthogonal. What should stay
is an output, f(A x) = f((A + B) x), for which B x = 0 on the earlier task's inputs x would do. The one does not follow
from the other, in neither direction: the condition on the parameters does not mention x.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nacre.adapters.low_rank import LowRank, LowRankSite


def numbers(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_first_example_a_sine() -> None:
    """A = (1, 0), B = (0, -1), x = (pi/2, pi): sin(A x) = 1, sin((A + B) x) = -1.

    A and B are rows here, and what is zero is their inner product A B^T. The paper prints the condition as A^T B = 0,
    which this example does not meet: A^T B is a matrix with an entry -1.
    """
    a, b, x = numbers([[1, 0]]), numbers([[0, -1]]), numbers([math.pi / 2, math.pi])
    assert torch.equal(a @ b.T, numbers([[0]]))
    assert torch.equal(a.T @ b, numbers([[0, -1], [0, 0]]))
    assert math.isclose(torch.sin(a @ x).item(), 1.0, rel_tol=1e-15)
    assert math.isclose(torch.sin((a + b) @ x).item(), -1.0, rel_tol=1e-15)


def test_the_second_example_a_linear_map() -> None:
    """A = diag(1, 0), B = diag(0, 1), x = (1, -1), f(v) = (v1 + v2, -v2): (1, 0) becomes (0, 1)."""
    a, b, x = numbers([[1, 0], [0, 0]]), numbers([[0, 0], [0, 1]]), numbers([1, -1])
    f = numbers([[1, 1], [0, -1]])
    assert torch.equal(a.T @ b, torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(a @ b.T, torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(f @ a @ x, numbers([1, 0]))
    assert torch.equal(f @ (a + b) @ x, numbers([0, 1]))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_third_example_in_n_dimensions(n: int) -> None:
    """A = e1 e1^T, B = en en^T, x = e1 - en, f(v) = (v1 + vn, 0, .., 0, -vn): e1 becomes en."""
    first, last = torch.eye(n, dtype=torch.float64)[[0, -1]]
    a, b, x = first.outer(first), last.outer(last), first - last
    f = first.outer(first + last) - last.outer(last)
    assert torch.equal(a.T @ b, torch.zeros(n, n, dtype=torch.float64))
    assert torch.equal(a @ b.T, torch.zeros(n, n, dtype=torch.float64))
    assert torch.equal(a @ x, first)
    assert torch.equal((a + b) @ x, first - last)
    assert torch.equal(f @ a @ x, first)
    assert torch.equal(f @ (a + b) @ x, last)


# The same in training. A linear model h = W x with a LoRA a task (nacre's own site) learns two regressions, one after
# the other, by gradient descent. Task 1's inputs lie in a subspace of half the dimensions; task 2's lie anywhere.

D_IN, D_OUT, RANK = 8, 6, 2


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def regressions() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Inputs and targets of the two tasks; each target is a map of rank 2 away from the zero host."""
    inputs = draw(40, D_IN // 2, seed=1) @ draw(D_IN // 2, D_IN, seed=2), draw(40, D_IN, seed=3)
    maps = [draw(D_OUT, RANK, seed=seed) @ draw(RANK, D_IN, seed=seed + 1) / 4 for seed in (4, 6)]
    return (inputs[0], inputs[0] @ maps[0].T), (inputs[1], inputs[1] @ maps[1].T)


def loss(site: LowRankSite, task: tuple[Tensor, Tensor]) -> Tensor:
    x, y = task
    return (site(x) - y).square().mean()


def off(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The projection of row vectors onto the complement of the span of ``rows``, exact up to rounding."""
    _, sigma, v = torch.linalg.svd(rows, full_matrices=False)
    basis = v[sigma > 1e-10 * sigma[0]]
    return lambda vectors: vectors - (vectors @ basis.T) @ basis


def anything(vectors: Tensor) -> Tensor:
    return vectors


def learn(
    site: LowRankSite,
    task: tuple[Tensor, Tensor],
    seed: int,
    inputs: Callable[[Tensor], Tensor] = anything,
    outputs: Callable[[Tensor], Tensor] = anything,
) -> None:
    """Gradient descent on a new LoRA. After every step A's rows are projected by ``inputs``, B's columns by
    ``outputs``, so that a condition holds all the time and not only as a penalty wants it."""
    site.grow()
    site.fold_past()
    site.fresh(seed)
    a, b = site.slots.down.weight, site.slots.up.weight
    with torch.no_grad():
        a.copy_(inputs(a))
    for _ in range(400):
        gradients = torch.autograd.grad(loss(site, task), [a, b])
        with torch.no_grad():
            a.copy_(inputs(a - 0.1 * gradients[0]))
            b.copy_(outputs((b - 0.1 * gradients[1]).T).T)


def two_tasks(condition: str) -> tuple[LowRankSite, dict[str, float]]:
    """Learn both tasks, the second under a condition; the losses on the way."""
    one, two = regressions()
    base = nn.Linear(D_IN, D_OUT, bias=False, dtype=torch.float64)
    nn.init.zeros_(base.weight)
    site = LowRankSite(base, LowRank(rank=RANK, alpha=float(RANK), dropout=0.0))
    learn(site, one, seed=10)
    before = loss(site, one).item()
    a, b = site.slots.down.weight.detach().clone(), site.slots.up.weight.detach().clone()
    conditions: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
        "A1 A2^T = 0": {"inputs": off(a)},
        "B1^T B2 = 0": {"outputs": off(b.T)},
        "both": {"inputs": off(a), "outputs": off(b.T)},
        "A2 x = 0 on task 1": {"inputs": off(one[0])},
    }
    untrained = loss(site, two).item()
    learn(site, two, seed=11, **conditions[condition])
    return site, {
        "task 1 after task 1": before,
        "task 1 after task 2": loss(site, one).item(),
        "task 2 after task 1": untrained,
        "task 2 after task 2": loss(site, two).item(),
    }


@pytest.mark.parametrize("condition", ["A1 A2^T = 0", "B1^T B2 = 0", "both"])
def test_an_earlier_task_is_forgotten_although_the_updates_are_orthogonal(condition: str) -> None:
    """With Delta_i = B_i A_i: A1 A2^T = 0 makes Delta_1 Delta_2^T = 0 (O-LoRA's released condition, on the input side),
    B1^T B2 = 0 makes Delta_1^T Delta_2 = 0 (the condition as AM-LoRA prints it, A^T B = 0). Either, and even both
    together, hold to rounding during the whole of task 2, and task 1 is lost all the same."""
    site, losses = two_tasks(condition)
    first = site.slots.past_up[0].T @ site.slots.past_down[0]
    second = (site.slots.up.weight @ site.slots.down.weight).detach()
    if condition != "B1^T B2 = 0":
        assert (site.slots.past_down.flatten(0, 1) @ site.slots.down.weight.T).abs().sum() <= 1e-10
        assert (first @ second.T).abs().max() <= 1e-10
    if condition != "A1 A2^T = 0":
        assert (site.slots.past_up.flatten(0, 1) @ site.slots.up.weight).abs().sum() <= 1e-10
        assert (first.T @ second).abs().max() <= 1e-10
    assert losses["task 2 after task 2"] < 0.9 * losses["task 2 after task 1"], "task 2 was learnt"
    assert losses["task 1 after task 1"] < 1e-12
    assert losses["task 1 after task 2"] > 1.0


def test_an_earlier_task_stays_if_the_new_update_does_not_see_its_inputs() -> None:
    """What protects task 1 is A2 x = 0 for its inputs x; the updates need not be orthogonal for it."""
    site, losses = two_tasks("A2 x = 0 on task 1")
    (x, _), _ = regressions()
    assert (x @ site.slots.down.weight.T).abs().max() <= 1e-10
    assert (site.slots.past_down.flatten(0, 1) @ site.slots.down.weight.T).abs().sum() > 0.1
    assert (site.slots.past_up.flatten(0, 1) @ site.slots.up.weight).abs().sum() > 0.1
    assert losses["task 2 after task 2"] < 0.9 * losses["task 2 after task 1"], "task 2 was learnt"
    assert losses["task 1 after task 1"] < 1e-12
    assert abs(losses["task 1 after task 2"] - losses["task 1 after task 1"]) <= 1e-10
