"""Penalties and the Fisher information against float64 loops over the equations, entry by entry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.fisher import divided_by_mean, drawn_labels, mean_squared_gradients
from nacre.functional.losses import IGNORED
from nacre.functional.penalties import elastic, norm_sum, overlaps

BOUND = 1e-10


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor | list | float) -> bool:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == expected.shape
    return bool((found.detach() - expected).norm() <= BOUND * max(1.0, expected.norm()))


def naive_overlap(new: list, past: list, norm: str) -> tuple[float, list]:
    """Value and gradient: every pair of rows, one product after the other."""
    value, gradient = 0.0, [[0.0] * len(row) for row in new]
    for task in past:
        for old_row in task:
            for place, row in enumerate(new):
                product = sum(a * b for a, b in zip(old_row, row, strict=True))
                value += abs(product) if norm == "absolute" else product**2
                slope = math.copysign(1.0, product) if norm == "absolute" else 2 * product
                gradient[place] = [g + slope * a for g, a in zip(gradient[place], old_row, strict=True)]
    return value, gradient


def overlap(new: Tensor, past: Tensor, norm: str) -> Tensor:
    """Of one matrix [r, d] with past [t-1, r, d]."""
    return overlaps([[new]], [past.flatten(0, 1).unsqueeze(0)], norm=norm).sum()


def autograd_overlap(new: Tensor, past: Tensor, norm: str) -> Tensor:
    """The same with the gradient left to autograd."""
    products = past.flatten(0, 1) @ new.T
    return (products.abs() if norm == "absolute" else products.square()).sum()


@pytest.mark.parametrize("norm", ["absolute", "squared"])
@pytest.mark.parametrize(("tasks", "rank", "d"), [(2, 1, 5), (4, 3, 7), (6, 8, 9)])
def test_overlap_and_its_gradient(tasks: int, rank: int, d: int, norm: str) -> None:
    new, past = draw(rank, d).requires_grad_(), draw(tasks - 1, rank, d, seed=1)
    found = overlap(new, past, norm)
    value, gradient = naive_overlap(new.tolist(), past.tolist(), norm)
    found.backward()
    assert close(found, value)
    assert close(new.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["absolute", "squared"])
@pytest.mark.parametrize(("tasks", "rank", "d"), [(2, 8, 512), (16, 8, 64), (3, 2, 16), (5, 3, 7)])
def test_one_by_one_it_is_autograd_but_for_the_order_of_summation(
    tasks: int, rank: int, d: int, norm: str, dtype: torch.dtype
) -> None:
    """Values and slopes are bit-equal, because the same product is taken.

    The gradient's product is written the other way round than autograd's, and a BLAS library may then add up in another
    order. Two orders of n terms differ by at most 2 n eps sum |terms|, entry by entry. The weight is not a power of
    two; one of the matrices lies in memory by columns.
    """
    data = [(draw(rank, d, seed=n).to(dtype), draw(tasks - 1, rank, d, seed=9 + n).to(dtype)) for n in range(3)]
    found, expected = (
        [(new.T.contiguous().T if n == 1 else new).clone().requires_grad_() for n, (new, _) in enumerate(data)]
        for _ in range(2)
    )
    pasts = [past for _, past in data]
    value = overlaps([[new] for new in found], [past.flatten(0, 1).unsqueeze(0) for past in pasts], norm=norm).sum()
    twin = torch.stack([autograd_overlap(new, past, norm) for new, past in zip(expected, pasts, strict=True)]).sum()
    (0.3 * value).backward()
    (0.3 * twin).backward()
    assert torch.equal(value, twin)
    for one, other, past in zip(found, expected, pasts, strict=True):
        flat = past.flatten(0, 1)  # [(t-1) r, d]
        products = flat @ one.detach().T  # with the bits that both have
        slopes = torch.ones_like(products) if norm == "absolute" else 2 * products.abs()
        terms = 0.3 * slopes.double().T @ flat.double().abs()  # [r, d], each the sum of its (t-1) r terms' sizes
        bound = 2 * len(flat) * torch.finfo(dtype).eps * terms
        assert ((one.grad - other.grad).abs().double() <= bound).all()


@pytest.mark.parametrize("norm", ["absolute", "squared"])
def test_stacked_groups_give_each_matrix_its_own_value_and_gradient(norm: str) -> None:
    shapes = [(3, 7), (3, 7), (2, 5), (3, 7), (2, 5), (4, 9)]
    new = [draw(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    past = [draw(4, *shape, seed=20 + n) for n, shape in enumerate(shapes)]
    groups = [[0, 1, 3], [2, 4], [5]]
    stacked = [torch.stack([past[n].flatten(0, 1) for n in group]) for group in groups]
    values = overlaps([[new[n] for n in group] for group in groups], stacked, norm=norm)
    weights = torch.tensor([0.3, -2.0, 1.0, 5.0, 0.7, 0.1], dtype=torch.float64)
    (weights * values).sum().backward()
    for value, weight, n in zip(values, weights, [n for group in groups for n in group], strict=True):
        expected, gradient = naive_overlap(new[n].tolist(), past[n].tolist(), norm)
        assert close(value, expected)
        assert (new[n].grad - weight * torch.tensor(gradient, dtype=torch.float64)).abs().max() <= 1e-12


@pytest.mark.parametrize("norm", ["absolute", "squared"])
def test_what_is_kept_for_the_gradient_is_no_larger_than_the_products(norm: str) -> None:
    new, past = draw(4, 100).requires_grad_(), draw(6, 4, 100, seed=1)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        overlap(new, past, norm)
    assert sum(kept) == 6 * 4 * 4


@pytest.mark.parametrize("norm", ["absolute", "squared"])
def test_orthogonal_directions_do_not_overlap(norm: str) -> None:
    directions = torch.linalg.qr(draw(9, 9)).Q
    assert overlap(directions[:3], directions[3:].view(2, 3, 9), norm) < 1e-13
    own = overlap(directions[:3], directions[:3].view(1, 3, 9), norm)
    assert close(own, 3.0)  # three unit rows, each met by itself alone


@pytest.mark.parametrize("norm", ["absolute", "squared"])
def test_the_first_task_and_an_untrained_b_have_zero_overlap_and_zero_gradient(norm: str) -> None:
    for new, past in [(draw(2, 5), draw(0, 2, 5)), (torch.zeros(2, 5, dtype=torch.float64), draw(3, 2, 5))]:
        new.requires_grad_()
        value = overlap(new, past, norm)
        assert value == 0
        value.backward()
        assert torch.equal(new.grad, torch.zeros_like(new))


def test_norms_are_summed_without_squaring() -> None:
    tensors = [draw(3, 4).requires_grad_(), draw(5, 2, seed=1).requires_grad_()]
    lengths = [math.sqrt(sum(x * x for x in tensor.flatten().tolist())) for tensor in tensors]
    found = norm_sum(tensors)
    found.backward()
    assert close(found, sum(lengths))
    for tensor, length in zip(tensors, lengths, strict=True):
        assert close(tensor.grad, [[x / length for x in row] for row in tensor.tolist()])


def test_the_subgradient_of_a_norm_at_zero_is_zero() -> None:
    """Every LoRA's B begins there; the quotient x / |x| would make everything NaN at the first step."""
    zero, other = torch.zeros(3, 2, requires_grad=True), torch.ones(4, requires_grad=True)
    norm_sum([zero, other]).backward()
    assert torch.equal(zero.grad, torch.zeros(3, 2))
    assert torch.equal(other.grad, torch.full((4,), 0.5))


def test_elastic_and_its_gradient() -> None:
    shapes = [(3, 4), (5,), (2, 2, 2)]
    parameters = [draw(*shape).requires_grad_() for shape in shapes]
    anchors = [draw(*shape, seed=1) for shape in shapes]
    importances = [draw(*shape, seed=2).abs() for shape in shapes]
    flat = [torch.cat([t.detach().flatten() for t in group]).tolist() for group in (parameters, anchors, importances)]
    entries = list(zip(*flat, strict=True))
    found = elastic(parameters, anchors, importances)
    found.backward()
    assert close(found, sum(f / 2 * (p - a) ** 2 for p, a, f in entries))
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
    assert close(gradient, [f * (p - a) for p, a, f in entries])


def test_the_pull_balances_a_quadratic_task_where_algebra_says() -> None:
    """(a/2)(theta - b)^2 + lambda F/2 (theta - theta*)^2 is least at (a b + lambda F theta*) / (a + lambda F)."""
    a, b, strength, importance, anchor = 3.0, 2.0, 5.0, 0.7, -1.0
    best = (a * b + strength * importance * anchor) / (a + strength * importance)
    theta = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    (a / 2 * (theta - b).square().sum() + strength * elastic([theta], [anchor * one], [importance * one])).backward()
    assert abs(theta.grad.item()) <= BOUND


def test_elastic_is_computed_in_the_fishers_precision() -> None:
    parameter = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    value = elastic([parameter], [torch.zeros(2, dtype=torch.bfloat16)], [torch.tensor([0.001, 1.0])])
    assert value.dtype == torch.float32
    assert math.isclose(value.item(), 0.5 * (0.001 + 4.0), rel_tol=1e-6)


def logistic(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(x @ weight, y)


def test_fisher_of_logistic_regression_in_closed_form() -> None:
    """F_j = mean of x_j^2 (p - y)^2."""
    x, y = draw(40, 6), (draw(40, seed=1) > 0).double()
    weight, unused = draw(6, seed=2).requires_grad_(), draw(3).requires_grad_()
    examples = zip(x, y, strict=True)
    found, nothing = mean_squared_gradients((logistic(*example, weight) for example in examples), [weight, unused])
    expected = []
    for j in range(6):
        total = 0.0
        for row, label in zip(x.tolist(), y.tolist(), strict=True):
            p = 1 / (1 + math.exp(-sum(a * b for a, b in zip(row, weight.tolist(), strict=True))))
            total += row[j] ** 2 * (p - label) ** 2
        expected.append(total / 40)
    assert close(found, expected)
    assert torch.equal(nothing, torch.zeros(3, dtype=torch.float64)), "no loss depends on it"
    assert weight.grad is None
    of_batch_means = mean_squared_gradients([logistic(x, y, weight)], [weight])[0]
    assert of_batch_means.sum() < 0.2 * found.sum(), "the square of a batch's mean is another, much smaller thing"


def test_fisher_does_not_underflow_in_half_precision() -> None:
    weight = torch.ones(2, dtype=torch.float16, requires_grad=True)
    found = mean_squared_gradients(iter([(weight * 1e-4).sum()]), [weight])[0]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.full((2,), 1e-8), rtol=1e-2, atol=0)


def test_a_normalized_fisher_has_mean_one() -> None:
    tensors = [draw(3, 4).square(), draw(7, seed=1).square()]
    mean = sum(x for tensor in tensors for x in tensor.flatten().tolist()) / 19
    for found, tensor in zip(divided_by_mean(tensors), tensors, strict=True):
        assert close(found, (tensor / mean).tolist())
    assert torch.equal(divided_by_mean([torch.zeros(3)])[0], torch.zeros(3))


def test_sampled_labels_give_the_fisher_of_the_model_itself() -> None:
    """Softmax regression: E over y ~ p of the squared gradient is sum_k p_k (d log p_k)^2, entry by entry."""
    x, weight = draw(1, 4), draw(5, 4, seed=1).requires_grad_()
    shares = torch.softmax(x @ weight.T, -1)[0].tolist()
    expected = [
        [
            sum(share * (x[0, j].item() * ((k == c) - shares[c])) ** 2 for k, share in enumerate(shares))
            for j in range(4)
        ]
        for c in range(5)
    ]
    generator, labels = torch.Generator().manual_seed(0), torch.tensor([2])
    logits = x @ weight.T

    def losses() -> list[Tensor]:
        drawn = [drawn_labels(logits, labels, generator) for _ in range(4000)]
        return [torch.nn.functional.cross_entropy(x @ weight.T, label) for label in drawn]

    found = mean_squared_gradients(losses(), [weight])[0]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (found - expected).norm() <= 0.05 * expected.norm()


def test_labels_are_drawn_at_their_own_positions_and_ignored_ones_stay() -> None:
    logits = torch.full((2, 3, 4), -30.0)
    peaks = torch.tensor([[1, 2, 3], [0, 1, 2]])
    logits.scatter_(-1, peaks.unsqueeze(-1), 30.0)
    labels = torch.tensor([[0, IGNORED, 0], [IGNORED, 3, IGNORED]])
    drawn = drawn_labels(logits, labels, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[1, IGNORED, 3], [IGNORED, 1, IGNORED]]
    assert labels.tolist() == [[0, IGNORED, 0], [IGNORED, 3, IGNORED]]
