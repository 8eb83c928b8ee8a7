"""Means and scatters of classes, the discriminants made of them, and the best label among several classes'.

m_p, n_p, V_p = mean, number and scatter of class p's rows           V = sum_i (z_i - m) (z_i - m)^T
joined with k rows of mean u: m <- m + (u - m) k / (n + k), and the scatters' sum grows by
(u - m) (u - m)^T n k / (n + k)
S shrunk by g: (1 - g) S + g tr(S) / d I
score_p(z) = w_p . z - w_p . m_p / 2 + log pi_p,  w_p = S^-1 m_p
"""

from __future__ import annotations

import torch
from torch import Tensor


def scatter(states: Tensor, mean: Tensor) -> Tensor:
    """The scatter [d, d] of states [n, d] around their mean [d]."""
    away = states - mean
    return away.T @ away


def joined(mean: Tensor, count: int, other: Tensor, other_count: int) -> tuple[Tensor, Tensor]:
    """The mean [d] of two groups of rows, and what their scatters' sum lacks [d, d]."""
    both = count + other_count
    away = other - mean
    return (mean * count + other * other_count) / both, torch.outer(away, away) * (count * other_count / both)


def oas(covariance: Tensor, rows: int) -> float:
    """The share g of the oracle approximating shrinkage (Chen et al. 2010).

    g = min(1, (a + u^2) / ((N + 1) (a - u^2 / d))), a = mean of the squared entries, u = tr(S) / d.

    Args:
        covariance: S [d, d]; a factor does not matter.
        rows: N.
    """
    width = len(covariance)
    squares, spread = covariance.square().mean(), covariance.trace() / width
    below = (rows + 1) * (squares - spread.square() / width)
    return 1.0 if below <= 0 else min(1.0, float((squares + spread.square()) / below))


def shrunk(covariance: Tensor, share: float) -> Tensor:
    """(1 - g) S + g tr(S) / d I; of zeros, which know no direction, the identity.

    Args:
        covariance: S [d, d].
        share: g.
    """
    identity = torch.eye(len(covariance)).to(covariance)
    spread = covariance.trace() / len(covariance)
    return torch.where(spread > 0, (1 - share) * covariance + share * spread * identity, identity)


def discriminant(means: Tensor, covariance: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weights [d, P] and offsets [P] of the classes' scores; None if the covariance cannot be inverted.

    Args:
        means: m [P, d].
        covariance: S [d, d].
        log_prior: log pi [P].
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed):
        return None
    weights = torch.cholesky_solve(means.T, factor)
    return weights, log_prior - (weights.T * means).sum(1) / 2


def best_strings(scores: Tensor, strings: list[int], by_sum: bool) -> list[int]:
    """The best string of each row; several classes may have the same.

    Args:
        scores: The classes' log evidence [B, P]; -inf where one cannot be.
        strings: The number of each class's string.
        by_sum: Whether a string has the sum of its classes' evidence, instead of the largest.

    Returns:
        Numbers of strings; of equal ones, the string of the first class, or the first string.
    """
    numbers = torch.tensor(strings, device=scores.device)
    if not by_sum:
        best: list[int] = numbers[scores.argmax(1)].tolist()
        return best
    evidence = (scores - scores.amax(1, keepdim=True)).exp()
    summed = evidence.new_zeros(len(scores), max(strings) + 1).index_add(1, numbers, evidence)
    most: list[int] = summed.argmax(1).tolist()
    return most
