"""Gaussian evidence against naive loops in float64, and what a temperature means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.special import log_softmax

from nacre.functional.gaussian_evidence import (
    TEMPERATURES,
    Along,
    evidence,
    held_out_evidence,
    ridged,
    surprise,
    whitener,
)

WIDTH = 5
STRENGTH = 0.3


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(states: np.ndarray, means: np.ndarray, covariance: np.ndarray, along: Along) -> np.ndarray:
    added = np.diag(covariance) if along == "diagonal" else np.full(WIDTH, np.trace(covariance) / WIDTH)
    inverse = np.linalg.inv(covariance + STRENGTH * np.diag(added))
    return np.array([[-(mahalanobis(z, m, inverse) ** 2) / 2 for m in means] for z in states])


@pytest.mark.parametrize("along", ["diagonal", "identity"])
def test_evidence_is_half_the_squared_distance_of_mahalanobis(along: Along) -> None:
    states, means, root = draw(7, WIDTH), draw(3, WIDTH, seed=1), draw(WIDTH, WIDTH, seed=2)
    covariance = root @ root.T
    factor = whitener(covariance, STRENGTH, along)
    found = evidence(states, means @ factor, factor)
    assert np.allclose(found.numpy(), naive(states.numpy(), means.numpy(), covariance.numpy(), along), rtol=1e-10)


def test_a_scale_of_one_dimension_changes_nothing_along_the_diagonal() -> None:
    states, means, root = draw(7, WIDTH), draw(3, WIDTH, seed=1), draw(WIDTH, WIDTH, seed=2)
    covariance, scale = root @ root.T, torch.tensor([1.0, 10.0, 1.0, 0.1, 1.0], dtype=torch.float64)
    before = whitener(covariance, STRENGTH, "diagonal")
    after = whitener(covariance * scale * scale[:, None], STRENGTH, "diagonal")
    torch.testing.assert_close(
        evidence(states * scale, means * scale @ after, after),
        evidence(states, means @ before, before),
        rtol=1e-9,
        atol=0,
    )


def test_what_never_varies_has_an_inverse_and_nothing_known_is_the_identity() -> None:
    covariance = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert ridged(covariance, STRENGTH, "diagonal").diagonal().tolist() == [1.3, pytest.approx(5e-7)]
    assert torch.equal(ridged(0 * covariance, STRENGTH, "identity"), torch.eye(2, dtype=torch.float64))


def test_held_out_evidence_is_that_of_sums_without_the_rows_of_the_fold() -> None:
    states, others, root = draw(11, WIDTH), draw(2, WIDTH, seed=3), draw(WIDTH, 40, seed=4)
    classes, folds = torch.arange(11) % 3, torch.arange(11) % 4
    found = held_out_evidence(states, classes, folds, others, root @ root.T, 40, strength=STRENGTH, along="diagonal")
    for row in range(11):
        kept = [number for number in range(11) if folds[number] != folds[row]]
        own = [[number for number in kept if classes[number] == label] for label in range(3)]
        means = torch.stack([states[numbers].mean(0) for numbers in own])
        spread = root @ root.T
        for numbers, mean in zip(own, means, strict=True):
            for number in numbers:
                spread = spread + torch.outer(states[number] - mean, states[number] - mean)
        covariance = spread / (len(kept) + 40 - 5)
        expected = naive(
            states[row : row + 1].numpy(), torch.cat([means, others]).numpy(), covariance.numpy(), "diagonal"
        )
        assert np.allclose(found[row].numpy(), expected[0], rtol=1e-9)


def test_of_a_labels_only_row_nothing_is_known() -> None:
    classes = torch.tensor([0, 0, 0, 1])
    found = held_out_evidence(
        draw(4, WIDTH), classes, torch.arange(4), draw(0, WIDTH), torch.zeros(WIDTH, WIDTH).double(), 0,
        strength=STRENGTH, along="identity",
    )  # fmt: skip
    assert found[3].tolist()[1] == -math.inf
    assert found[:3].isfinite().all()
    alone = held_out_evidence(
        draw(1, WIDTH), torch.zeros(1, dtype=torch.long), torch.zeros(1), draw(0, WIDTH),
        torch.zeros(WIDTH, WIDTH).double(), 0, strength=STRENGTH, along="identity",
    )  # fmt: skip
    assert alone.tolist() == [[-math.inf]]
    assert surprise(alone, torch.tensor([0])).tolist() == [0.0] * len(TEMPERATURES)


def test_surprise_is_the_mean_of_minus_log_p_at_each_temperature() -> None:
    found, truth = 10 * draw(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    found[5, 0] = -math.inf  # not seen: left out
    expected = [
        -np.mean([log_softmax(found[row].numpy() / t)[truth[row]] for row in range(5)]) for t in TEMPERATURES.tolist()
    ]
    assert np.allclose(surprise(found, truth).numpy(), expected)


def test_evidence_that_is_four_times_too_sure_has_the_temperature_four() -> None:
    right = 2 * draw(4000, 3)
    generator = torch.Generator().manual_seed(5)
    truth = torch.multinomial(right.softmax(1), 1, generator=generator).squeeze(1)
    assert TEMPERATURES[surprise(4 * right, truth).argmin()] == 4.0
