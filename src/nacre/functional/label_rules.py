"""What makes labels of unlike length and frequency comparable: rules on their log-probabilities L(y | x).

A calibration is one number for each label, b, that is subtracted from L. It is computed once from the scores of some
rows, in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-9
"""What CoDe-LoRA adds to each label's mean share, so that its logarithm is finite."""

BELOW = 100.0
"""A label that a row cannot be given counts as so many nats less likely than the row's best."""

ROUNDS = 1000
CLOSE = 1e-12
"""How near the mean shares must come to those wanted."""

NEAR = 1e-6
"""Nearer than this, rounding hides whether a step descends."""


def token_means(scores: Tensor, lengths: Tensor) -> Tensor:
    """L / m.

    Args:
        scores: L [B, labels].
        lengths: m, the number of each label's tokens [labels].
    """
    return scores / lengths.to(scores)


def prior_offsets(scores: Tensor, pseudo_rows: float) -> Tensor:
    """b = log q, q the mean of softmax(L) over the rows and over pseudo-rows that give every label the same share.

        q = (sum_i softmax(L_i) + n_0 / labels) / (n + n_0) + 1e-9

    Args:
        scores: L of n rows [n, labels].
        pseudo_rows: n_0; 0: the rows alone.

    Returns:
        b [labels] in float64, around a mean of 0; 0 where there is no row of either kind.
    """
    rows = _answerable(scores)
    n = len(rows) + pseudo_rows
    if not n:
        return rows.new_zeros(rows.shape[1])
    mean = (rows.softmax(1).sum(0) + pseudo_rows / rows.shape[1]) / n
    return _centered((mean + FLOOR).log())


def share_offsets(scores: Tensor, shares: Tensor, pseudo_rows: float) -> Tensor:
    """The b with which the labels' mean share over the rows is as wanted.

        sum_i softmax(L_i - b) + n_0 softmax(log s - b) = (n + n_0) s

    It is the minimum of a convex function, found by Newton's method. A step that does not descend is replaced by
    b + log(mean share) - log s, which always does. Without pseudo-rows a constant that is added to one label's L in
    all rows is taken away again, exactly.

    Args:
        scores: L of n rows [n, labels].
        shares: s [labels], positive, with a sum of 1.
        pseudo_rows: n_0, of rows whose shares are s already; 0: the rows alone.

    Returns:
        b [labels] in float64, around a mean of 0; 0 where there is no row of either kind.
    """
    rows, shares = _answerable(scores), shares.double().to(scores.device)
    if pseudo_rows:
        rows = torch.cat([rows, shares.log().unsqueeze(0)])
    weights = rows.new_ones(len(rows))
    weights[len(rows) - bool(pseudo_rows) :] = pseudo_rows
    if not len(rows):
        return rows.new_zeros(rows.shape[1])
    weights = weights / weights.sum()

    offsets = _centered(rows.mean(0))
    for _ in range(ROUNDS):
        of_rows = (rows - offsets).softmax(1)
        mean = weights @ of_rows
        away = float((mean - shares).abs().amax())
        if away <= CLOSE:
            break
        curvature = torch.diag(mean) - of_rows.T @ (weights.unsqueeze(1) * of_rows)
        # b is known up to a constant: in its direction the curvature is 0, and any other will do.
        step, failed = torch.linalg.solve_ex(curvature + 1 / len(shares), mean - shares)
        tried = _centered(offsets + step)
        if failed or not _descends(rows, weights, shares, offsets, tried, away):
            tried = _centered(offsets + mean.clamp(min=torch.finfo(mean.dtype).tiny).log() - shares.log())
        offsets = tried
    return offsets


def _descends(rows: Tensor, weights: Tensor, shares: Tensor, before: Tensor, after: Tensor, away: float) -> bool:
    """Whether a step lowers sum_i w_i log sum exp(L_i - b) + s b, or, near the minimum, its slope `away`."""
    if away > NEAR:
        heights = [weights @ (rows - offsets).logsumexp(1) + shares @ offsets for offsets in (before, after)]
        return bool(heights[1] < heights[0])
    return float((weights @ (rows - after).softmax(1) - shares).abs().amax()) < away


def _answerable(scores: Tensor) -> Tensor:
    """The rows that can be given one of the labels, in float64, every score finite."""
    rows = scores.double()
    rows = rows[rows.isfinite().any(1)]
    return torch.where(rows.isfinite(), rows, rows.amax(1, keepdim=True) - BELOW)


def _centered(offsets: Tensor) -> Tensor:
    """A constant changes no answer; without it, labels of several tasks are on one scale."""
    return offsets - offsets.mean()
