"""Scores without their prior, and the weight of two opinions, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nacre.functional.label_fusion import SHARES, best_share, fused, without_prior
from nacre.functional.label_rules import prior_offsets


def test_the_prior_is_the_mean_of_what_is_said() -> None:
    said = torch.tensor([[0.9, 0.1], [0.7, 0.3]], dtype=torch.float64)
    scores = said.log() - torch.tensor([[3.0], [5.0]])  # log p of strings sums to less than 1
    expected = torch.tensor([0.8 + 1e-9, 0.2 + 1e-9], dtype=torch.float64)
    assert torch.allclose(prior_offsets(scores, 0).softmax(0), expected / expected.sum(), rtol=0, atol=1e-12)


def test_without_the_prior_by_hand() -> None:
    said, prior = (0.6, 0.3, 0.1), (0.7, 0.2, 0.1)
    ratios = [one / other for one, other in zip(said, prior, strict=True)]
    expected = [math.log(ratio / sum(ratios)) for ratio in ratios]
    scores = torch.tensor([said], dtype=torch.float64).log() - 2
    found = without_prior(scores, torch.tensor(prior, dtype=torch.float64).log())
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert found.argmax() == 1, "the prior alone made the first label the best"


def test_equal_opinions_leave_the_branch_out_and_ties_go_to_the_smaller_share() -> None:
    opinion, truth = torch.randn(20, 3).log_softmax(1), torch.randint(3, (20,))
    assert best_share(opinion, opinion, truth) == 0
    never_right = torch.tensor([[0.0, 1.0]])
    assert best_share(never_right, never_right, torch.tensor([0])) == 0


def test_the_share_that_is_right_most_often() -> None:
    expert = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.0]])
    branch = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    truth = torch.tensor([0, 1, 1])
    rights = [int((((1 - share) * expert + share * branch).argmax(1) == truth).sum()) for share in SHARES]
    assert rights == [2, 2, 2, 2, 1]
    assert best_share(branch, expert, truth) == 0
    stronger = branch * torch.tensor([[0.1], [0.1], [3.0]])
    assert best_share(stronger, expert, truth) == 0.25


def test_both_opinions_and_one_alone() -> None:
    branch, expert = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.allclose(fused(branch, expert, 0.25), 0.25 * branch + 0.75 * expert, atol=1e-6)
    assert fused(None, expert, 0.0) is expert
    assert fused(branch, None, 1.0) is branch
