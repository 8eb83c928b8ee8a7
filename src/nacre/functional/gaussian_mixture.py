"""A mixture of Gaussians for each task, all with one covariance: how probable each task is, given a state.

log p(z|t) = logsumexp_k [log pi_tk - (z - mu_tk)^T C^-1 (z - mu_tk) / 2]          w_t = softmax_t log p(z|t)

The components of a task are the clusters of k-means on its rows. With one component for each task this is linear
discriminant analysis with uniform priors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.functional.class_distance import squared_distances


def k_means(points: Tensor, clusters: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters of points, by Lloyd's iterations from starts that are drawn far from each other (k-means++).

    A cluster that loses all of its points takes the point that is farthest from its own cluster's mean. There are no
    more clusters than distinct points.

    Args:
        points: [n, d] in float64, on the CPU.
        clusters: K.
        iterations: At most so many.
        seed: Of the starts.

    Returns:
        Each point's cluster [n], none of them empty, and the clusters' means [K, d].
    """
    distinct: Tensor = torch.unique(points, dim=0)
    count = min(clusters, len(distinct))
    generator = torch.Generator().manual_seed(seed)
    means = points[torch.randint(len(points), (1,), generator=generator)]
    while len(means) < count:
        far = squared_distances(points, means).amin(1)
        means = torch.cat([means, points[torch.multinomial(far, 1, generator=generator)]])
    assigned = torch.full((len(points),), -1)
    for _ in range(iterations):
        before, assigned = assigned, _without_empty(squared_distances(points, means).argmin(1), points, means)
        if torch.equal(before, assigned):
            break
        means = points.new_zeros(count, points.shape[1]).index_add(0, assigned, points)
        means /= torch.bincount(assigned, minlength=count)[:, None]
    return assigned, means


def _without_empty(assigned: Tensor, points: Tensor, means: Tensor) -> Tensor:
    """Every empty cluster is given the farthest point of those that do not stand alone."""
    sizes = torch.bincount(assigned, minlength=len(means))
    for empty in (sizes == 0).nonzero().flatten().tolist():
        away = (points - means[assigned]).square().sum(1)
        farthest = int(torch.where(sizes[assigned] > 1, away, -1.0).argmax())
        sizes[assigned[farthest]] -= 1
        assigned[farthest], sizes[empty] = empty, 1
        means = means.index_copy(0, torch.tensor([empty]), points[farthest : farthest + 1])
    return assigned


def inverse_root(covariance: Tensor) -> Tensor | None:
    """F [d, d] with C^-1 = F F^T; None if C [d, d] cannot be inverted."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed):
        return None
    inverse: Tensor = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    return inverse.T


def stacked_mixtures(shares: Sequence[Tensor], means: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The tasks' mixtures with equally many components: those that a task lacks have the share 0.

    Args:
        shares: pi_t [K_t] of each task.
        means: mu_t [K_t, d].

    Returns:
        [t, K] and [t, K, d].
    """
    most = max(map(len, shares))
    return (
        torch.stack([F.pad(own, (0, most - len(own))) for own in shares]),
        torch.stack([F.pad(own, (0, 0, 0, most - len(own))) for own in means]),
    )


def posteriors(states: Tensor, shares: Tensor, means: Tensor) -> Tensor:
    """w [B, t] of states [B, d], pi [t, K] and mu [t, K, d]; states and mu times `inverse_root`."""
    distances = squared_distances(states, means.flatten(0, 1)).view(len(states), *shares.shape)
    return (shares.log() - distances / 2).logsumexp(-1).softmax(-1)
