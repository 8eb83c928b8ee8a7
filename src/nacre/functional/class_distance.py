"""Distances to classes by one shared covariance (Mahalanobis), as in linear discriminant analysis with equal priors.

    mu_c = mean of class c          S_c = its unbiased covariance          S = mean of S_c over the classes
    d_c(z) = (z - mu_c)^T S^+ (z - mu_c)

S^+ is the pseudo-inverse: S^+ = F F^T with F from the eigenvectors of S whose eigenvalues are not rounding.
Source: EPI (ACL 2023, long paper 612).
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_moments(states: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The classes' means, and the mean of their unbiased covariances.

    Args:
        states: z [n, d].
        classes: The number of each row's class [n], each at least once.
        count: C, the number of classes.

    Returns:
        Means [C, d], and the covariance [d, d]: the mean over the classes with two rows at least, zeros if there is
        none.
    """
    rows = torch.bincount(classes, minlength=count).to(states)  # [C]
    means = states.new_zeros(count, states.shape[1]).index_add(0, classes, states) / rows.unsqueeze(1)
    several = rows > 1
    share = torch.where(several, 1 / ((rows - 1).clamp(min=1) * several.sum().clamp(min=1)), 0.0)
    away = states - means[classes]
    return means, away.T @ (share[classes].unsqueeze(1) * away)


def whitening(covariance: Tensor, tolerance: float) -> Tensor:
    """F [d, k] with S^+ = F F^T: S = sum_j l_j u_j u_j^T, F's columns u_j / sqrt(l_j).

    Args:
        covariance: S [d, d], symmetric.
        tolerance: Eigenvalues up to this share of the largest one are rounding, and left out.

    Returns:
        [d, k], k the number of eigenvalues that are kept.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > tolerance * values[-1].clamp(min=0)
    factor: Tensor = vectors[:, kept] / values[kept].sqrt()
    return factor


def squared_distances(states: Tensor, means: Tensor) -> Tensor:
    """|z - mu_c|^2: states [B, k], means [C, k], both whitened -> [B, C]."""
    return torch.cdist(states, means, compute_mode="donot_use_mm_for_euclid_dist").square()
