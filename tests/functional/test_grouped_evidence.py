"""Evidence gathered by group against loops, and the largest shares."""

from __future__ import annotations

import math

import pytest
import torch

from nacre.functional.grouped_evidence import gathered, largest_shares


def test_gathered_evidence_is_the_best_or_the_sum_of_each_group() -> None:
    evidence = torch.tensor([[1.0, 2.0, -math.inf, 700.0], [-math.inf] * 4], dtype=torch.float64)
    owners = torch.tensor([2, 0, 1, 2])
    best = gathered(evidence, owners, 4, by_sum=False)
    assert best.tolist() == [[2.0, -math.inf, 700.0, -math.inf], [-math.inf] * 4]
    summed = gathered(evidence, owners, 4, by_sum=True)
    assert summed[0].tolist() == [2.0, -math.inf, pytest.approx(700.0), -math.inf]
    assert summed[1].tolist() == [-math.inf] * 4
    pairs = gathered(evidence[:1, :2], torch.tensor([0, 0]), 1, by_sum=True)
    assert pairs.item() == pytest.approx(math.log(math.exp(1) + math.exp(2)))


def test_a_class_without_a_group_is_left_out() -> None:
    evidence = torch.tensor([[5.0, 1.0]], dtype=torch.float64)
    assert gathered(evidence, torch.tensor([-1, 0]), 2, by_sum=True).tolist() == [[1.0, -math.inf]]
    assert gathered(evidence, torch.tensor([-1, -1]), 1, by_sum=False).tolist() == [[-math.inf]]


def test_the_largest_shares_sum_to_one_and_the_first_of_equal_ones_is_kept() -> None:
    shares = torch.tensor([[0.2, 0.5, 0.2, 0.1], [0.25] * 4]).log()
    assert largest_shares(shares, 1).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    two = largest_shares(shares, 2)
    assert two[0].tolist() == pytest.approx([2 / 7, 5 / 7, 0, 0])
    assert two[1].tolist() == pytest.approx([0.5, 0.5, 0, 0])
    torch.testing.assert_close(largest_shares(shares, 9), shares.exp())
