"""Projections against explicit projectors in float64, which share no code with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nacre.functional.projection import directions_of_task, part_within
from nacre.functional.spans import extended, no_spans

BOUND = 1e-10


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projector(rows: Tensor) -> Tensor:
    """P = A^+ A [d, d], the orthogonal projector on the span of the rows, through the pseudo-inverse."""
    return torch.linalg.pinv(rows, rtol=1e-9) @ rows


def directions(past: Tensor, space: str) -> Tensor:
    """The rows D [q, d] after the tasks [t-1, r, d], one after the other."""
    stacks = past.unsqueeze(1)
    if space != "union":
        return torch.cat([past.new_zeros(0, past.shape[-1]), *(directions_of_task(task, space)[0] for task in stacks)])
    spans = no_spans(past[:1].new_zeros(1, *past.shape[1:]))
    for task in stacks:
        spans = extended(spans, task)
    return spans.basis[0]


def after(rows: Tensor, past: Tensor, space: str) -> Tensor:
    return rows - part_within(rows, directions(past, space))


@pytest.mark.parametrize(("tasks", "rank", "width"), [(1, 2, 9), (3, 2, 9), (4, 3, 16), (5, 3, 12)])
def test_every_space_equals_its_projectors(tasks: int, rank: int, width: int) -> None:
    past, rows = draw(tasks, rank, width), draw(rank, width, seed=1)
    union = rows - rows @ projector(past.flatten(0, 1))
    by_task, by_vector = rows.clone(), rows.clone()
    for task in past:
        by_task -= rows @ (task.T @ torch.linalg.inv(task @ task.T) @ task)
        for vector in task:
            by_vector -= torch.outer(rows @ vector, vector) / (vector @ vector)
    for space, expected in {"union": union, "sum": by_task, "vectors": by_vector}.items():
        assert (after(rows, past, space) - expected).abs().max() <= BOUND, space


def test_without_a_past_nothing_is_removed() -> None:
    rows = draw(3, 7)
    for space in ("union", "sum", "vectors"):
        found = directions(torch.zeros(0, 3, 7, dtype=torch.float64), space)
        assert found.shape == (0, 7)
        assert torch.equal(rows - part_within(rows, found), rows)


def test_vectors_of_zeros_remove_nothing() -> None:
    past, rows = draw(2, 3, 7), draw(2, 7, seed=1)
    past[0, 1] = 0
    without = past.flatten(0, 1)[[0, 2, 3, 4, 5]].unsqueeze(0)
    for space in ("union", "vectors"):
        assert directions(past, space).isfinite().all()
        assert (after(rows, past, space) - after(rows, without, space)).abs().max() <= BOUND
    assert torch.equal(after(rows, torch.zeros_like(past), "sum"), rows)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 1.0])
def test_in_float32_nothing_is_left_in_the_union(overlap: float) -> None:
    """Whether the old spans are equal, near or unrelated; measured along the old vectors, at length 1."""
    first = draw(8, 64)
    past = torch.stack([first, *(first + overlap * draw(8, 64, seed=seed) for seed in (1, 2))]).float()
    rows = draw(8, 64, seed=9).float()
    old = torch.nn.functional.normalize(past.flatten(0, 1).double(), dim=-1)
    left = after(rows, past, "union").double() @ old.T
    assert left.norm() <= 1e-5 * rows.norm()
    assert (rows.double() @ old.T).norm() > 0.1 * rows.norm(), "there was something to remove"


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_the_literal_sum_multiplies_what_lies_in_m_equal_spans_by_one_minus_m(times: int) -> None:
    task = draw(3, 20)
    mix = draw(3, 3, seed=4)
    past = torch.stack([task, *(mix @ task for _ in range(times - 1))])  # other vectors, the same span
    inside = draw(2, 3, seed=2) @ task
    outside = draw(2, 20, seed=3)
    outside -= outside @ projector(task)
    assert (after(inside + outside, past, "sum") - (outside + (1 - times) * inside)).abs().max() <= BOUND
    assert (after(inside + outside, past, "union") - outside).abs().max() <= BOUND


def test_two_near_spans_are_reversed_by_the_sum_and_removed_by_the_union() -> None:
    """A second task that began as a copy of the first: d 20, rank 3, noise 0.1."""
    first = draw(3, 20)
    past = torch.stack([first, first + 0.1 * draw(3, 20, seed=1)])
    gradient = draw(3, 20, seed=2)
    inside = projector(first)
    before = gradient @ inside
    assert (after(gradient, past, "union") @ inside).norm() <= 1e-12
    reversed_part = after(gradient, past, "sum") @ inside
    cosine = (reversed_part * before).sum() / reversed_part.norm() / before.norm()
    assert cosine < -0.9
    assert 0.7 < reversed_part.norm() / before.norm() < 1.1


def test_where_old_vectors_are_orthogonal_all_spaces_are_one() -> None:
    past = torch.linalg.qr(draw(12, 12)).Q[:6].view(3, 2, 12)
    rows = draw(2, 12, seed=1)
    union = after(rows, past, "union")
    assert (after(rows, past, "sum") - union).abs().max() <= BOUND
    assert (after(rows, past, "vectors") - union).abs().max() <= BOUND


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_the_union_removes_once_and_for_all(tasks: int, rank: int, seed: int) -> None:
    past, rows = draw(tasks, rank, 20, seed=seed), draw(rank, 20, seed=seed + 1)
    once = after(rows, past, "union")
    assert (once @ past.flatten(0, 1).T).abs().max() <= BOUND
    assert (after(once, past, "union") - once).abs().max() <= BOUND
    assert once.norm() <= rows.norm() + BOUND


def test_padding_with_zeros_removes_nothing_more() -> None:
    """Bases of several sizes are stacked: rows of zeros fill up the smaller ones."""
    rows, basis = draw(2, 3, 10), directions(draw(1, 2, 10, seed=1), "union")
    padded = torch.cat([basis, torch.zeros(3, 10, dtype=torch.float64)])
    assert (part_within(rows, padded) - part_within(rows, basis)).abs().max() <= 1e-15
