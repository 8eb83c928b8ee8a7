"""Stored logits against float64 loops, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.dark_logits import condensed, largest_logits, squared_distance, target_places
from nacre.functional.losses import IGNORED


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_target_places_are_those_that_a_mask_would_choose() -> None:
    labels = torch.tensor([[IGNORED, 4, 0], [7, IGNORED, IGNORED], [IGNORED, IGNORED, 1]])
    expected = (labels.flatten() != IGNORED).nonzero()[:, 0]
    assert torch.equal(target_places(labels, 4), expected)
    assert torch.equal(target_places(torch.tensor([3, 1, 2]), 3), torch.arange(3))


def test_condensed_logits_are_the_largest_and_the_logarithm_of_all_others() -> None:
    logits = draw(5, 9)
    tokens = largest_logits(logits, 3)
    found = condensed(logits, tokens)
    for row, values, chosen in zip(logits.tolist(), found.tolist(), tokens.tolist(), strict=True):
        order = sorted(range(9), key=lambda token: -row[token])
        assert chosen == order[:3]
        others = math.log(sum(math.exp(row[token]) for token in order[3:]))
        assert values == pytest.approx([row[token] for token in order[:3]] + [others], abs=1e-12)


def test_condensing_keeps_what_a_softmax_says_of_the_kept_tokens() -> None:
    logits = draw(4, 11)
    tokens = largest_logits(logits, 2)
    found = condensed(logits, tokens).softmax(-1)[:, :2]
    assert (found - logits.softmax(-1).gather(-1, tokens)).abs().max() < 1e-12


def test_the_squared_distance_and_its_gradient() -> None:
    """With classes that are closed then and now; d/dz = 2 (z - z')."""
    closed = torch.tensor([[False, False, True], [False, True, False]])
    z, kept = draw(2, 3), draw(2, 3, seed=1).masked_fill(closed, -math.inf)
    leaf = z.clone().requires_grad_()
    total, number = squared_distance(leaf.masked_fill(closed, -math.inf), kept)
    total.backward()
    value, gradient = 0.0, [[0.0] * 3 for _ in range(2)]
    for i in range(2):
        for j in range(3):
            if not closed[i, j]:
                value += (float(z[i, j]) - float(kept[i, j])) ** 2
                gradient[i][j] = 2 * (float(z[i, j]) - float(kept[i, j]))
    assert float(total.detach()) == pytest.approx(value, rel=1e-12)
    assert int(number) == 4
    assert leaf.grad is not None
    assert (leaf.grad - torch.tensor(gradient, dtype=torch.float64)).abs().max() < 1e-12


def test_half_precision_is_compared_in_single_precision() -> None:
    z, kept = draw(3, 50).bfloat16(), draw(3, 50, seed=1).bfloat16()
    total, _ = squared_distance(z, kept)
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(float((z.double() - kept.double()).square().sum()), rel=1e-6)
