"""Classes by one shared covariance: against scipy in float64, and what no change of coordinates may change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import multivariate_normal
from torch import Tensor

from nacre.functional.class_distance import class_moments, squared_distances, whitening

WIDTH, CLASSES = 6, 4


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes of 5, 9, 13 and 17 rows, in mixed order, that share a skewed covariance."""
    classes = torch.arange(CLASSES).repeat_interleave(torch.tensor([5, 9, 13, 17]))
    classes = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))]
    states = drawn(len(classes), WIDTH, seed=seed + 1) @ drawn(WIDTH, WIDTH, seed=seed + 2)
    return states + drawn(CLASSES, WIDTH, seed=seed + 3)[classes], classes


def test_moments_are_those_of_numpy_class_by_class() -> None:
    states, classes = rows()
    means, covariance = class_moments(states, classes, CLASSES)
    own = [states[classes == number].numpy() for number in range(CLASSES)]
    assert np.abs(means.numpy() - np.stack([each.mean(0) for each in own])).max() < 1e-13
    expected = np.mean([np.cov(each, rowvar=False, ddof=1) for each in own], axis=0)
    assert np.abs(covariance.numpy() - expected).max() < 1e-12


def test_a_class_with_one_row_has_a_mean_and_no_part_in_the_covariance() -> None:
    states, classes = rows()
    alone = drawn(1, WIDTH, seed=50)
    means, covariance = class_moments(torch.cat([states, alone]), torch.cat([classes, torch.tensor([4])]), 5)
    assert torch.equal(means[4], alone[0])
    assert torch.allclose(covariance, class_moments(states, classes, CLASSES)[1], rtol=1e-13, atol=1e-13)
    _, none = class_moments(alone, torch.tensor([0]), 1)
    assert not none.any()


def test_distances_are_scipys() -> None:
    states, classes = rows()
    means, covariance = class_moments(states, classes, CLASSES)
    factor = whitening(covariance, 1e-12)
    assert factor.shape == (WIDTH, WIDTH)
    found = squared_distances(states @ factor, means @ factor)
    precision = np.linalg.inv(covariance.numpy())
    expected = [[mahalanobis(z, mean, precision) ** 2 for mean in means.numpy()] for z in states.numpy()]
    assert np.allclose(found.numpy(), np.array(expected), rtol=1e-10, atol=1e-10)


def test_the_nearest_class_is_that_of_linear_discriminant_analysis_with_equal_priors() -> None:
    """The largest of the Gaussians' densities with one covariance, whatever the classes' sizes."""
    states, classes = rows()
    means, covariance = class_moments(states, classes, CLASSES)
    factor = whitening(covariance, 1e-12)
    others = drawn(300, WIDTH, seed=70) * 3
    nearest = squared_distances(others @ factor, means @ factor).argmin(-1)
    densities = [multivariate_normal(mean, covariance.numpy()).logpdf(others.numpy()) for mean in means.numpy()]
    assert nearest.tolist() == np.stack(densities).argmax(0).tolist()
    assert len(set(nearest.tolist())) == CLASSES


def test_with_the_identity_it_is_the_nearest_mean() -> None:
    states, means = drawn(50, WIDTH, seed=80), drawn(CLASSES, WIDTH, seed=81)
    factor = whitening(torch.eye(WIDTH, dtype=torch.float64), 1e-4)
    nearest = squared_distances(states @ factor, means @ factor).argmin(-1)
    assert nearest.tolist() == [int((means - state).norm(dim=-1).argmin()) for state in states]


@pytest.mark.parametrize("seed", range(5))
def test_an_affine_change_of_the_states_changes_no_distance(seed: int) -> None:
    states, classes = rows(seed)
    turned = states @ drawn(WIDTH, WIDTH, seed=seed + 90) + 5 * drawn(1, WIDTH, seed=seed + 91)
    distances = []
    for each in (states, turned):
        means, covariance = class_moments(each, classes, CLASSES)
        factor = whitening(covariance, 1e-12)
        distances.append(squared_distances(each @ factor, means @ factor))
    assert torch.allclose(*distances, rtol=1e-8, atol=1e-8)


def test_directions_without_variance_are_left_out_as_a_pseudo_inverse_does() -> None:
    """Fewer rows than dimensions: F F^T is numpy's pseudo-inverse with the same tolerance."""
    states = drawn(5, WIDTH, seed=100)
    _, covariance = class_moments(states, torch.tensor([0, 0, 0, 1, 1]), 2)
    factor = whitening(covariance, 1e-10)
    assert factor.shape == (WIDTH, 3)
    expected = np.linalg.pinv(covariance.numpy(), rcond=1e-10, hermitian=True)
    assert np.abs((factor @ factor.T).numpy() - expected).max() < 1e-9


def test_the_tolerance_is_a_share_of_the_largest_eigenvalue() -> None:
    covariance = torch.diag(torch.tensor([4.0, 1.0, 4e-3, 0.0], dtype=torch.float64))
    assert [whitening(covariance, tolerance).shape[1] for tolerance in (0.0, 5e-4, 2e-3, 0.5)] == [3, 3, 2, 1]


def test_without_any_variance_all_classes_are_equally_far() -> None:
    factor = whitening(torch.zeros(3, 3, dtype=torch.float64), 1e-4)
    assert factor.shape == (3, 0)
    assert not squared_distances(drawn(2, 3, seed=1) @ factor, drawn(4, 3, seed=2) @ factor).any()
