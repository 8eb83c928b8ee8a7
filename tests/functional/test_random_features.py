"""Fourier features against their kernel, ridge against scikit-learn and its recursive form, and neighbors' votes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from nacre.functional.class_statistics import discriminant
from nacre.functional.neighbors import log_votes
from nacre.functional.random_features import (
    fourier_features,
    median_gamma,
    phases,
    relu_features,
    ridge,
    standard_normal,
)


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_products_of_fourier_features_are_the_kernel() -> None:
    """The error falls as the dimension's square root."""
    states = drawn(60, 8)
    gamma = median_gamma(states)
    exact = torch.from_numpy(rbf_kernel(states.numpy(), gamma=gamma))
    errors = []
    for dimension in (1250, 5000, 20000):
        expanded = fourier_features(states, standard_normal(8, dimension, 5), phases(dimension, 6), gamma)
        errors.append(float((expanded @ expanded.T - exact).abs().mean()))
    assert errors[1] < 0.013
    assert errors[0] > 1.4 * errors[1] > 2 * errors[2]


def test_gamma_is_of_the_median_distance() -> None:
    assert median_gamma(torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)) == pytest.approx(1 / 18)
    assert median_gamma(torch.ones(3, 2)) == 1.0


@pytest.mark.parametrize("block", [1, 50, 375])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_recursive_form_of_ridge_is_the_batch_form(block: int, mixed: bool) -> None:
    """Block by block, with columns appended as new labels come (ACIL)."""
    order = torch.randperm(375, generator=torch.Generator().manual_seed(1)) if mixed else torch.arange(375)
    classes = (torch.arange(375) // 75)[order]
    rows = relu_features(drawn(375, 8) / 2 + classes[:, None] / 4, standard_normal(8, 40, 3))
    seen: list[int] = []
    inverse, weights = torch.eye(40, dtype=torch.float64) / 0.5, torch.zeros(40, 0, dtype=torch.float64)
    for start in range(0, 375, block):
        own, labels = rows[start : start + block], classes[start : start + block].tolist()
        seen += sorted(set(labels) - set(seen))
        weights = torch.cat([weights, weights.new_zeros(40, len(seen) - weights.shape[1])], 1)
        targets = torch.nn.functional.one_hot(torch.tensor([seen.index(label) for label in labels]), len(seen)).double()
        inner = torch.linalg.inv(torch.eye(len(own), dtype=torch.float64) + own @ inverse @ own.T)
        inverse = inverse - inverse @ own.T @ inner @ own @ inverse
        weights = weights + inverse @ own.T @ (targets - own @ weights)
    one_hot = torch.stack([(classes == label).double() for label in seen], 1)
    batch = ridge(rows.T @ rows, rows.T @ one_hot, 0.5)
    assert batch is not None
    assert float((weights - batch).norm() / batch.norm()) < 1e-7


def test_ridge_is_scikit_learns_and_needs_an_inverse() -> None:
    states, targets = drawn(90, 7), drawn(90, 3, seed=4)
    found = ridge(states.T @ states, states.T @ targets, 0.7)
    assert found is not None
    theirs = Ridge(alpha=0.7, fit_intercept=False).fit(states.numpy(), targets.numpy())
    np.testing.assert_allclose(found.T, theirs.coef_, rtol=1e-9, atol=1e-12)
    assert ridge(torch.zeros(3, 3), torch.zeros(3, 1), 0.0) is None
    assert discriminant(torch.zeros(1, 3), torch.zeros(3, 3), torch.zeros(1)) is None


def test_the_nearest_vote() -> None:
    similarity = torch.tensor([[0.0, 2.0, 1.0, 1.5], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    classes = torch.tensor([0, 0, 1, 1])
    votes = log_votes(similarity, classes, 3, k=3).exp()
    expected = torch.tensor([[1.0, np.exp(-1) + np.exp(-0.5), 0.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(votes, expected)
    assert log_votes(similarity, classes, 3, k=9).exp()[0, 0] == pytest.approx(1 + np.exp(-2))
