"""The fold of CoDe-LoRA against dense matrices in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.consolidation import Factors, beside, consolidated

RANK, D_IN, D_OUT = 3, 7, 9


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors(seed: int, rank: int = RANK) -> Factors:
    return drawn(rank, D_IN, seed=seed), drawn(rank, D_OUT, seed=100 + seed)


def dense(update: Factors) -> Tensor:
    down, up = update
    return up.T @ down


def densely_folded(branch: Tensor, newest: Tensor, number: int) -> Tensor:
    left, sizes, _ = torch.linalg.svd(branch)
    basis = left[:, : int((sizes > 1e-6 * sizes[0]).sum())]
    own = newest - basis @ basis.T @ newest
    whole = math.sqrt((number - 1) / number) * branch + math.sqrt(1 / number) * own
    left, sizes, right = torch.linalg.svd(whole, full_matrices=False)
    return (left[:, :RANK] * sizes[:RANK]) @ right[:RANK]


def test_the_first_task_is_the_branch() -> None:
    own = factors(1)
    assert torch.allclose(dense(consolidated(None, own, 1)), dense(own), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank_of_branch", [RANK, 1])
def test_folds_are_those_of_dense_matrices(rank_of_branch: int) -> None:
    """Also where the branch spans fewer directions than its rank."""
    down, up = factors(0)
    branch: Factors = (down, torch.where(torch.arange(RANK).unsqueeze(1) < rank_of_branch, up, 0))
    expected = dense(branch)
    for number in (2, 3, 4):
        own = factors(number)
        expected = densely_folded(expected, dense(own), number)
        branch = consolidated(branch, own, number)
        assert [len(factor) for factor in branch] == [RANK, RANK]
        assert torch.allclose(dense(branch), expected, rtol=0, atol=1e-12)
    sizes = [factor.norm(dim=1) for factor in branch]
    assert torch.allclose(sizes[0], sizes[1], atol=1e-12), "both hold the root of the singular values"
    assert (sizes[0].diff() < 0).all()


def test_what_is_added_is_orthogonal_to_the_branch() -> None:
    branch, (down, up) = consolidated(factors(0), factors(1), 2), factors(2)
    own = (down, beside(branch, up))
    assert abs(float((dense(branch) * dense(own)).sum())) < 1e-12
    assert (dense(branch).T @ dense(own)).abs().max() < 1e-12
    assert dense(own).norm() > 1, "something is left"


def test_a_branch_of_zeros_takes_nothing_away() -> None:
    zeros = (torch.zeros(RANK, D_IN), torch.zeros(RANK, D_OUT))
    own = factors(3)
    found = dense(consolidated(zeros, own, 2))
    assert torch.allclose(found, dense(own) / math.sqrt(2), atol=1e-13)


def test_more_rank_than_dimensions() -> None:
    """The branch keeps its shape; what there is no dimension for is zero."""
    down, up = drawn(5, 3, seed=1), drawn(5, 4, seed=2)
    branch = consolidated(None, (down, up), 1)
    assert [tuple(factor.shape) for factor in branch] == [(5, 3), (5, 4)]
    assert torch.allclose(dense(branch), up.T @ down, atol=1e-12)
