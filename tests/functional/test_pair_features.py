"""Features of two texts, and how much their comparison counts."""

from __future__ import annotations

import math

import pytest
import torch

from nacre.functional.pair_features import best_pair_weight, pair_features, share_of_labels


def test_features_are_the_distance_and_the_product_in_each_dimension() -> None:
    first, second = torch.tensor([[1.0, -2.0]]), torch.tensor([[4.0, 3.0]])
    assert pair_features(first, second).tolist() == [[3.0, 5.0, 4.0, -6.0]]
    torch.testing.assert_close(pair_features(second, first), pair_features(first, second))


def test_what_says_nothing_is_zero_and_shares_average_to_one() -> None:
    found = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]], dtype=torch.float64)
    assert share_of_labels(found, 0.0).tolist() == [[0.0] * 3] * 2
    shares = share_of_labels(found, 2.0)
    assert shares[0].tolist() == pytest.approx([0.0] * 3)
    whole = sum(math.exp(2 * value) for value in (0, 2, -1))
    assert shares[1].tolist() == pytest.approx([math.log(3 * math.exp(2 * value) / whole) for value in (0, 2, -1)])


def test_the_weight_is_that_at_which_held_out_rows_surprise_the_least() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    found = 4 * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    truth = torch.multinomial((base + 0.25 * found).softmax(1), 1, generator=generator).squeeze(1)
    assert best_pair_weight(base, found, truth) == 0.25
    alone = torch.multinomial(base.softmax(1), 1, generator=generator).squeeze(1)
    assert best_pair_weight(base, found, alone) <= 1 / 64


def test_a_comparison_that_harms_counts_for_nothing() -> None:
    base = torch.tensor([[5.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    truth = torch.tensor([0, 1])
    assert best_pair_weight(base, -base, truth) == 0.0
    unseen = torch.full((2, 2), -math.inf, dtype=torch.float64)
    assert best_pair_weight(base, unseen, truth) == 0.0
