"""k-means against scikit-learn's iterations, and posteriors against scipy's densities and linear discriminants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from torch import Tensor

from nacre.functional.class_statistics import discriminant
from nacre.functional.gaussian_mixture import _without_empty, inverse_root, k_means, posteriors, stacked_mixtures


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def groups(seed: int = 3) -> Tensor:
    """Three clouds of forty points."""
    return drawn(120, 4, seed=seed) + 4 * drawn(3, 4, seed=seed + 1).repeat_interleave(40, 0)


@pytest.mark.parametrize("clusters", [1, 3, 5])
def test_iterations_end_where_lloyds_do(clusters: int) -> None:
    """From the same starts, which are what no iteration leaves."""
    points = groups()
    _, starts = k_means(points, clusters, 0, seed=4)
    assigned, means = k_means(points, clusters, 300, seed=4)
    theirs = KMeans(clusters, init=starts.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(points.numpy())
    assert assigned.tolist() == theirs.labels_.tolist()
    np.testing.assert_allclose(means.numpy(), theirs.cluster_centers_, rtol=1e-10, atol=1e-12)


def test_starts_are_points_far_from_each_other() -> None:
    """One of each cloud, where they lie far apart; another seed draws others."""
    points = groups() * torch.tensor([1.0, 1e-3, 1e-3, 1e-3], dtype=torch.float64)
    points[:, 0] += torch.tensor([0.0, 1e4, -1e4]).repeat_interleave(40)
    _, starts = k_means(points, 3, 0, seed=1)
    assert all(any(torch.equal(start, point) for point in points) for start in starts)
    assert sorted(round(float(start[0]) / 1e4) for start in starts) == [-1, 0, 1]
    _, others = k_means(points, 3, 0, seed=2)
    assert not torch.equal(starts, others)


def test_there_are_no_more_clusters_than_distinct_points() -> None:
    points = torch.tensor([[0.0], [1.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    assigned, means = k_means(points, 5, 30, seed=0)
    assert sorted(means.flatten().tolist()) == [0.0, 1.0]
    assert torch.equal(means[assigned], points)


def test_an_empty_cluster_takes_the_farthest_point_that_does_not_stand_alone() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0], [40.0]], dtype=torch.float64)
    means = torch.tensor([[1.0], [99.0], [30.0], [98.0]], dtype=torch.float64)
    assigned = _without_empty(torch.tensor([0, 0, 0, 2]), points, means)
    assert assigned.tolist() == [3, 0, 1, 2]  # 40 is farthest from its mean, and alone; then 5, then 0


def test_posteriors_are_those_of_scipys_densities() -> None:
    states, spread = drawn(9, 4), drawn(4, 4, seed=5)
    covariance = spread @ spread.T + 0.1 * torch.eye(4, dtype=torch.float64)
    shares = [torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
    means = [drawn(3, 4, seed=6), drawn(1, 4, seed=7)]
    factor = inverse_root(covariance)
    assert factor is not None
    pi, mu = stacked_mixtures(shares, means)
    found = posteriors(states @ factor, pi, mu @ factor)
    densities = np.stack(
        [
            sum(
                float(p) * multivariate_normal(m.numpy(), covariance.numpy()).pdf(states.numpy())
                for p, m in zip(own, at, strict=True)
            )
            for own, at in zip(shares, means, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(found.numpy(), densities / densities.sum(1, keepdims=True), rtol=1e-10)


def test_one_component_is_linear_discriminant_analysis() -> None:
    states, means, spread = drawn(9, 4), drawn(3, 4, seed=6), drawn(4, 4, seed=5)
    covariance = spread @ spread.T + 0.1 * torch.eye(4, dtype=torch.float64)
    factor, solved = inverse_root(covariance), discriminant(means, covariance, torch.zeros(3, dtype=torch.float64))
    assert factor is not None
    assert solved is not None
    expected = (states @ solved[0] + solved[1]).softmax(-1)
    found = posteriors(states @ factor, torch.ones(3, 1, dtype=torch.float64), (means @ factor)[:, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_state_far_from_all_tasks_is_given_to_one_of_them() -> None:
    """Nothing abstains: the posterior of an outlier is as sharp as can be."""
    means = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    far = torch.tensor([[1e3, -1e3]], dtype=torch.float64)
    assert posteriors(far, torch.ones(2, 1, dtype=torch.float64), means).tolist() == [[1.0, 0.0]]


def test_a_covariance_that_cannot_be_inverted_has_no_root() -> None:
    assert inverse_root(torch.zeros(2, 2, dtype=torch.float64)) is None
