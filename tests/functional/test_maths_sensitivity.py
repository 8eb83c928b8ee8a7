"""LB-CL's sensitivities, averages and orthonormality against loops in float64 that share no code with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.svd import Svd
from nacre.events import TrainingPrepared
from nacre.functional.orthonormality import orthonormality_error
from nacre.functional.sensitivity import (
    Triplets,
    averaged_triplets,
    orthonormal_rows,
    sensitivity,
    shares,
    triplet_sensitivity,
)
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.registry import build_method

BOUND = 1e-10
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class NaiveSite(nn.Module):
    """W x + s sum_k sum_i sigma_i^k (v_i^k . x) u_i^k, each u, sigma and v a parameter of its own."""

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor, sigma: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.weight = base.weight  # T5 looks at it
        self.u, self.v, self.sigma = (
            [[part.clone().requires_grad_() for part in task] for task in stack] for stack in (up, down, sigma)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        for us, sigmas, vs in zip(self.u, self.sigma, self.v, strict=True):
            for u, sigma, v in zip(us, sigmas, vs, strict=True):
                h = h + self.scale * sigma * (x @ v).unsqueeze(-1) * u
        return h

    def sensitivities(self, gradients: dict[int, Tensor], with_sigma: bool) -> Tensor:
        rows = []
        for us, sigmas, vs in zip(self.u, self.sigma, self.v, strict=True):
            row = []
            for u, sigma, v in zip(us, sigmas, vs, strict=True):
                total = sum(abs(u[j] * gradients[id(u)][j]) for j in range(len(u))) / len(u)
                total = total + sum(abs(v[j] * gradients[id(v)][j]) for j in range(len(v))) / len(v)
                row.append(total + abs(sigma * gradients[id(sigma)]) if with_sigma else total)
            rows.append(torch.stack(row))
        return torch.stack(rows).detach()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 7, dtype=torch.float64), nn.Linear(7, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_removing_a_parameter_changes_the_loss_by_its_sensitivity_to_first_order() -> None:
    torch.manual_seed(0)
    net = Net()
    placed = Svd(rank=2, modules=("first", "second"), dropout=0.0).place(net)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        placed.grow()
        for group in placed.parameter_groups():
            for parameter in group.parameters:
                parameter.data.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    placed.grow()
    x, y = draw(9, 6, seed=2), draw(9, 5, seed=3)
    with placed.past_open() as leaves:
        gradients = torch.autograd.grad((net(x) - y).square().mean(), list(leaves["first"].values()))
    checked = 0
    for (group, leaf), gradient in zip(leaves["first"].items(), gradients, strict=True):
        found = sensitivity(leaf.detach(), gradient)
        flat = placed.sites["first"].past_by_group()[group].view(-1)
        for place in range(0, len(flat), 5):
            kept, losses = flat[place].clone(), []
            for factor in (1 - 1e-5, 1 + 1e-5):
                flat[place] = kept * factor
                for site in placed.sites.values():
                    site.fold_past()
                with torch.no_grad():
                    losses.append((net(x) - y).square().mean())
            flat[place] = kept
            assert abs(abs(losses[0] - losses[1]) / 2e-5 - found.view(-1)[place]) <= 1e-8
            checked += 1
    assert checked > 15


def naive_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy over the target tokens, position by position."""
    logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    labels = batch["labels"]
    if "decoder_input_ids" not in batch:
        logits, labels = logits[:, :-1], labels[:, 1:]
    terms = [
        logits[row, place].logsumexp(-1) - logits[row, place, labels[row, place]]
        for row in range(labels.shape[0])
        for place in range(labels.shape[1])
        if labels[row, place] >= 0
    ]
    return torch.stack(terms).sum()


@pytest.mark.parametrize("estimate", ["batch", "sample"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lb_cl", {"variant": "l_cl", "sigma": "average", "alpha": 3.0, "dropout": 0.2, "orthonormality": 0.0}),
        ("inc_lora+sensitivity_init", {}),
    ],
)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_third_task_begins_as_the_equations_say(
    architecture: str, name: str, parameters: dict[str, object], estimate: str
) -> None:
    """The whole way in float64: host, loss, gradients of every triplet, sensitivities, weights, averages."""
    settings = {"estimate": estimate, "seed_samples": 5}
    if name != "lb_cl":
        settings["sigma"] = "average"
    own = {"rank": 2, **parameters, **(settings if name == "lb_cl" else {"sensitivity_init": settings})}
    with_sigma = name == "lb_cl"
    begun: list[dict[str, Tensor]] = []
    learner = Learner(
        tiny_host(architecture, torch.float64),
        build_method(name, own),
        seed=2,
        optim=Optim(batch_size=4, learning_rate=1e-2, epochs=2),
        on_event=lambda event: isinstance(event, TrainingPrepared) and begun.append(copied(learner)),
    )
    for task in TASKS:
        learner.learn(task)
    start, scale = begun[-1], learner.method.adapter.scale

    host = tiny_host(architecture, torch.float64)
    for parameter in host.model.parameters():
        parameter.requires_grad_(False)
    sites = {}
    for site in learner.adapter.sites:
        down, up = start[f"{site}.past_down"], start[f"{site}.past_up"]
        sigma = start[f"{site}.past_sigma"] if with_sigma else torch.ones(down.shape[:2], dtype=torch.float64)
        parent, _, child = site.rpartition(".")
        sites[site] = NaiveSite(host.model.get_submodule(site), down, up, sigma, scale)
        setattr(host.model.get_submodule(parent), child, sites[site])
    examples = learner.method.start.seed_rows(Numbered(learner, 3), [TASKS[2]])
    assert len(examples) == 5
    rows = learner.encode(examples)
    tokens = sum(len(row.target) for row in rows)
    leaves = [
        leaf for site in sites.values() for part in (site.u, site.v, site.sigma) for task in part for leaf in task
    ]
    expected = {site: torch.zeros(2, 2, dtype=torch.float64) for site in sites}
    for portion in [rows] if estimate == "batch" else [[row] for row in rows]:
        loss = naive_loss(host.model, host.family.batch(portion)) / tokens
        slopes = dict(zip(map(id, leaves), torch.autograd.grad(loss, leaves), strict=True))
        for site, module in sites.items():
            expected[site] += module.sensitivities(slopes, with_sigma)

    for site, scores in expected.items():
        assert scores.min() > 1e-7, f"{site}: an attention without gradient would leave ratios of rounding errors"
        for i in range(2):
            total = scores[0, i] + scores[1, i]
            alpha = [scores[k, i] / total for k in range(2)]
            assert 0 < alpha[0] < 1
            for public, past in (("down.weight", "past_down"), ("up.weight", "past_up"), ("sigma", "past_sigma")):
                if public == "sigma" and not with_sigma:
                    continue
                found = start[f"{site}.{public}"].T[i] if public == "up.weight" else start[f"{site}.{public}"][i]
                stack = start[f"{site}.{past}"]
                mean = alpha[0] * stack[0][i] + alpha[1] * stack[1][i]
                assert (found - mean).abs().max() <= BOUND * max(1.0, float(mean.abs().max())), (site, public)


class Numbered:
    """The learner as it was when this task began."""

    def __init__(self, learner: Learner, task_number: int) -> None:
        self.state, self.task_number = learner.state, task_number


def copied(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def test_sensitivities_of_rows_one_by_one_are_never_smaller() -> None:
    """What cancels in the rows' common gradient does not cancel in their sensitivities; for one row both are one."""
    learner = Learner(tiny_host("t5"), build_method("lb_cl", {"rank": 2}), optim=Optim(batch_size=4))
    for task in TASKS[:2]:
        learner.learn(task)
    learner.adapter.grow()
    names = list(learner.adapter.sites)
    found = {
        (estimate, rows): SensitivityStart(seed_samples=rows, estimate=estimate).sensitivities(
            learner, [TASKS[2]], names
        )
        for estimate in ("batch", "sample")
        for rows in (1, 6)
    }
    for name in names:
        assert torch.equal(found["batch", 1][name], found["sample", 1][name])
        assert (found["sample", 6][name] >= found["batch", 6][name] * (1 - 1e-4)).all()
    assert any((found["sample", 6][name] > 1.01 * found["batch", 6][name]).any() for name in names)


def test_shares() -> None:
    scores = torch.tensor([[3.0, 0.0, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(shares(scores), torch.tensor([[0.75, 0.5, 1.0], [0.25, 0.5, 0.0]], dtype=torch.float64))
    assert torch.equal(shares(torch.tensor([[0.3, 0.0, 7e-30]])), torch.ones(1, 3))


@pytest.mark.parametrize("with_sigma", [True, False])
@pytest.mark.parametrize("match", ["index", "sigma_sorted"])
@pytest.mark.parametrize("align", [False, True])
def test_averages_by_loops(with_sigma: bool, match: str, align: bool) -> None:
    tasks, rank, d_in, d_out = 4, 3, 6, 5
    down, up, sigma = draw(tasks, rank, d_in), draw(tasks, rank, d_out, seed=1), draw(tasks, rank, seed=2)
    scores = draw(tasks, rank, seed=3).abs()
    found = averaged_triplets(Triplets(down, up, sigma if with_sigma else None), scores, match=match, align=align)

    chosen = []  # by task: the triplets in the order in which they are averaged
    for k in range(tasks):
        triplets = [(up[k, i], sigma[k, i], down[k, i], scores[k, i]) for i in range(rank)]
        if match == "sigma_sorted":
            size = (lambda t: -abs(t[1])) if with_sigma else (lambda t: -torch.outer(t[0], t[2]).norm())
            triplets.sort(key=size)
        chosen.append(triplets)
    flipped = 0
    for i in range(rank):
        total = sum(chosen[k][i][3] for k in range(tasks))
        u, s, v = torch.zeros(d_out).double(), 0.0, torch.zeros(d_in).double()
        for k in range(tasks):
            sign = -1.0 if align and chosen[k][i][0] @ chosen[0][i][0] < 0 else 1.0
            flipped += sign < 0
            alpha = chosen[k][i][3] / total
            u, s, v = (
                u + alpha * sign * chosen[k][i][0],
                s + alpha * chosen[k][i][1],
                v + alpha * sign * chosen[k][i][2],
            )
        assert (found.up[i] - u).abs().max() <= BOUND
        assert (found.down[i] - v).abs().max() <= BOUND
        if with_sigma:
            assert abs(found.sigma[i] - s) <= BOUND
    assert (flipped > 0) == align
    assert (found.sigma is None) == (not with_sigma)


def test_one_earlier_task_is_copied_bit_for_bit() -> None:
    past = Triplets(draw(1, 3, 6), draw(1, 3, 5), draw(1, 3))
    for scores in (draw(1, 3, seed=1).abs(), torch.zeros(1, 3, dtype=torch.float64)):
        for align in (False, True):
            new = averaged_triplets(past, scores, align=align)
            assert all(torch.equal(found, stack[0]) for found, stack in zip(new, past, strict=True))


def test_triplet_sensitivity_by_loops() -> None:
    values = Triplets(draw(2, 3, 4), draw(2, 3, 5, seed=1), draw(2, 3, seed=2))
    slopes = Triplets(draw(2, 3, 4, seed=3), draw(2, 3, 5, seed=4), draw(2, 3, seed=5))
    found = triplet_sensitivity(values, slopes)
    plain = triplet_sensitivity(values._replace(sigma=None), slopes._replace(sigma=None))
    for k in range(2):
        for i in range(3):
            u = sum(abs(values.up[k, i, j] * slopes.up[k, i, j]) for j in range(5)) / 5
            v = sum(abs(values.down[k, i, j] * slopes.down[k, i, j]) for j in range(4)) / 4
            s = abs(values.sigma[k, i] * slopes.sigma[k, i])
            assert abs(found[k, i] - (s + u + v)) <= BOUND
            assert abs(plain[k, i] - (u + v)) <= BOUND


def test_orthonormal_rows_are_gram_schmidt() -> None:
    rows = draw(4, 9)
    expected: list[Tensor] = []
    for row in rows:
        left = row - sum((row @ earlier) * earlier for earlier in expected) if expected else row
        expected.append(left / left.norm())
    assert (orthonormal_rows(rows) - torch.stack(expected)).abs().max() <= BOUND


def test_orthonormality_errors_by_loops() -> None:
    stacked = draw(3, 2, 7)
    found = orthonormality_error(stacked)
    for matrix, error in zip(stacked, found, strict=True):
        total = sum((matrix[i] @ matrix[j] - float(i == j)) ** 2 for i in range(2) for j in range(2))
        assert abs(error - total.sqrt()) <= BOUND


def test_orthonormal_factors_have_no_error_and_no_gradient() -> None:
    rows = torch.eye(5, dtype=torch.float64)[:2].requires_grad_()
    error = orthonormality_error(rows)
    error.backward()
    assert error == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows)), "not NaN, although the norm has a corner there"
