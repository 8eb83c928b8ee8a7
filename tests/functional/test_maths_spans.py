"""Spans that grow task by task, against one singular value decomposition of everything, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nacre.functional.spans import Spans, extended, no_spans

BOUND = 1e-10


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grown(tasks: Sequence[Tensor], **settings: float) -> Spans:
    """The spans of one stack: tasks [r, d] each."""
    spans = no_spans(tasks[0].unsqueeze(0))
    for task in tasks:
        spans = extended(spans, task.unsqueeze(0), **settings)
    return spans


def at_once(tasks: Sequence[Tensor], tolerance: float = 1e-6) -> Tensor:
    """An orthonormal basis of the span of all rows: the right singular vectors of all of them together."""
    _, values, rows = torch.linalg.svd(torch.cat(list(tasks)).double(), full_matrices=False)
    return rows[values > tolerance * values.max()]


def assert_same_span(found: Spans, expected: Tensor, bound: float = BOUND) -> None:
    (basis,) = found.basis
    assert int(found.dimensions) == len(basis) == len(expected)
    assert (basis @ basis.T - torch.eye(len(basis), dtype=torch.float64)).abs().max() <= bound
    assert (basis.T @ basis - expected.T @ expected).abs().max() <= bound


@pytest.mark.parametrize(
    ("tasks", "rank", "width"), [(1, 1, 3), (1, 4, 9), (5, 3, 16), (6, 2, 12), (7, 3, 12), (2, 9, 6), (40, 4, 200)]
)
def test_task_by_task_is_all_at_once(tasks: int, rank: int, width: int) -> None:
    """Also where more rows come than there are dimensions, of one task or of all."""
    past = list(draw(tasks, rank, width))
    assert_same_span(grown(past), at_once(past))


def test_rows_inside_the_span_add_nothing() -> None:
    first, second, mix = draw(3, 12), draw(3, 12, seed=1), draw(3, 6, seed=2)
    inside = mix @ torch.cat([first, second])
    half = torch.stack([first[0] - 3 * second[2], draw(12, seed=3), torch.zeros(12).double()])  # one of three is new
    for task in (first, first.flip(0) * 7, inside, torch.zeros_like(first)):
        found = grown([first, second, task])
        assert int(found.dimensions) == 6
        assert torch.equal(found.basis, grown([first, second]).basis)
    assert_same_span(grown([first, second, inside, half]), at_once([first, second, half]))


def test_rows_that_are_dependent_within_a_task_count_once() -> None:
    one, two = draw(2, 8)
    dependent = torch.stack([one, two, one, one - 3 * two])
    assert_same_span(grown([dependent]), at_once([torch.stack([one, two])]))
    assert int(grown([1e-9 * dependent]).dimensions) == 2, "scale does not matter"
    assert grown([torch.zeros(3, 8)]).basis.shape == (1, 0, 8)
    after_nothing = grown([torch.zeros(4, 8).double(), dependent])
    assert_same_span(after_nothing, at_once([dependent]))


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-4, 1e-5])
def test_rows_near_the_span_count_and_stay_orthonormal(distance: float) -> None:
    """Twice: what one pass leaves of the span is small to the task, not to a row that is almost all inside."""
    first = draw(4, 20)
    near = draw(4, 4, seed=1) @ first + distance * draw(4, 20, seed=2)
    found = grown([first, near])
    assert_same_span(found, at_once([first, near]), bound=1e-15 / distance * 100)
    assert (found.basis[0] @ found.basis[0].T - torch.eye(8).double()).abs().max() <= 1e-9


def test_rows_nearer_than_the_tolerance_do_not_count() -> None:
    first = draw(4, 20)
    near = draw(4, 4, seed=1) @ first + 1e-8 * draw(4, 20, seed=2)
    assert int(grown([first, near]).dimensions) == len(at_once([first, near])) == 4
    assert int(grown([first, near], tolerance=1e-10).dimensions) == 8
    small = 1e-8 * draw(4, 20, seed=3)
    assert int(grown([first, small]).dimensions) == len(at_once([first, small])) == 4, "small beside the first"
    assert int(grown([small, first]).dimensions) == 8, "what once counted stays"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(3, 24), st.integers(0, 4), st.integers(0, 10**6))
def test_whatever_comes_is_held(tasks: int, rank: int, width: int, kept: int, seed: int) -> None:
    """Random tasks of reduced rank that overlap: the basis is orthonormal, holds all rows, and nothing else."""
    source = draw(max(1, min(kept, width)), width, seed=seed)
    past = [draw(rank, len(source), seed=seed + 1 + task) @ source for task in range(tasks)]
    (basis,) = grown(past).basis
    rows = torch.cat(past)
    assert (basis @ basis.T - torch.eye(len(basis)).double()).abs().max() <= BOUND
    assert (rows - rows @ basis.T @ basis).norm() <= 1e-5 * rows.norm()
    source_projector = torch.linalg.pinv(source) @ source
    assert (basis - basis @ source_projector).norm() <= 1e-7


def test_stacks_of_several_sizes_are_each_what_they_are_alone() -> None:
    """Where one stack's task adds less than another's, rows of zeros stand behind the others and never between."""
    stacks = []
    for number in range(4):
        past = list(draw(5, 3, 14, seed=number))
        if number % 2:
            past[1] = past[0] * 2
            past[3][number - 1] = past[2][0]
        if number == 2:
            past = [past[0]] + [torch.zeros_like(past[0])] * 4
        stacks.append(past)
    spans = no_spans(torch.stack([past[0] for past in stacks]))
    for task in zip(*stacks, strict=True):
        spans = extended(spans, torch.stack(task))
        assert spans.basis.shape[1] == int(spans.dimensions.max()), "no more rows than are needed"
    assert spans.dimensions.tolist() == [14, 11, 3, 11]
    for basis, dimensions, past in zip(spans.basis, spans.dimensions.tolist(), stacks, strict=True):
        assert not basis[dimensions:].any()
        expected = at_once(past)
        assert len(expected) == dimensions
        assert (basis.T @ basis - expected.T @ expected).abs().max() <= BOUND


def test_in_float32_fifty_tasks_stay_orthonormal() -> None:
    """Kept in the rows' precision, computed in float64: errors do not add up."""
    past = [task.float() for task in draw(50, 4, 256)]
    past[20], past[30] = past[3] + 1e-3 * past[20], 2 * past[3]
    found = grown(past)
    (basis,) = found.basis
    assert basis.dtype == torch.float32
    assert len(basis) == 4 * 49
    exact = basis.double()
    assert (exact @ exact.T - torch.eye(len(exact))).abs().max() <= 3e-7
    rows = torch.nn.functional.normalize(torch.cat(past).double(), dim=-1)
    assert (rows - rows @ exact.T @ exact).norm(dim=-1).max() <= 1e-6
    expected = at_once(past)  # has directions that a thousandth of a task shows, to a thousandth of float32's digits
    assert (expected - expected @ exact.T @ exact).norm(dim=-1).max() <= 1e-4


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.9, 0.99])
def test_energy_takes_as_few_directions_as_hold_the_share(energy: float) -> None:
    """Task by task, by explicit projectors: the largest left directions, one after the other, until it is enough."""
    past = list(draw(6, 4, 20) * torch.tensor([4.0, 2.0, 1.0, 0.3]).double().view(4, 1))
    past[4] = draw(4, 4, seed=8) @ past[0] + 1e-2 * past[4]  # almost inside already
    held = torch.zeros(20, 20, dtype=torch.float64)
    counts = []
    for task in past:
        rows = torch.linalg.svd(task - task @ held).Vh
        taken = 0
        while (task @ held).norm() ** 2 < energy * task.norm() ** 2:
            held = held + torch.outer(rows[taken], rows[taken])
            taken += 1
        counts.append(taken)
    found = grown(past, energy=energy)
    assert int(found.dimensions) == sum(counts) < 24
    assert counts[4] == 0
    assert (found.basis[0].T @ found.basis[0] - held).abs().max() <= BOUND


def test_all_energy_is_every_direction_bit_for_bit_and_less_is_fewer() -> None:
    past = list(draw(6, 3, 30))
    assert torch.equal(grown(past, energy=1.0).basis, grown(past).basis)
    sizes = [int(grown(past, energy=energy).dimensions) for energy in (0.2, 0.6, 0.9, 1.0)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 18
