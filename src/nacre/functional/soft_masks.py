"""DAS's importance of units, and its contrast between what was known and the whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def normalized_importance(raw: Tensor) -> Tensor:
    """|tanh((I - mean) / std)| over the units of a layer, std with n - 1; 0 where all are equal.

    Args:
        raw: Mean absolute gradients, [units].

    Returns:
        [units], in [0, 1].
    """
    if raw.numel() < 2:
        return torch.zeros_like(raw)
    away = raw - raw.mean()
    spread = raw.std()
    return torch.where(raw.max() > raw.min(), away / spread, torch.zeros_like(away)).tanh().abs()


def state_divergence(one: Tensor, other: Tensor, counted: Tensor) -> Tensor:
    """Each row's mean over counted tokens of KL(p || q), p and q the softmax of hidden states over their features.

    Where it is exactly 0, it is at its minimum, and so is its gradient: what rounding leaves of it is dropped.

    Args:
        one: [B, S, d].
        other: [B, S, d].
        counted: True where a token counts, at least once a row, [B, S].

    Returns:
        [B].
    """
    expected, found = one.log_softmax(-1), other.log_softmax(-1)
    by_token = (expected.exp() * (expected - found)).sum(-1) * counted
    by_row = by_token.sum(-1) / counted.sum(-1)
    return torch.where(by_row == 0, 0, by_row)


def mean_over_tokens(states: Tensor, counted: Tensor) -> Tensor:
    """Each row's mean state over the counted tokens: [B, S, d] and [B, S] -> [B, d]."""
    weights = counted.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1)


def contrast(full: Tensor, again: Tensor, known: Tensor | None, temperature: float) -> Tensor:
    """-mean_n log of exp(sim(h_n, h_n+) / T) / sum_m (exp(sim(h_n, h_m+) / T) + exp(sim(h_n, h_m^prev) / T)).

    Args:
        full: h, [B, d].
        again: h+, the same rows once more, [B, d].
        known: h^prev, [B, d]; None: without that term.
        temperature: T.

    Returns:
        A scalar. sim is the cosine.
    """
    others = again if known is None else torch.cat([again, known])
    similarities = F.normalize(full, dim=-1) @ F.normalize(others, dim=-1).T / temperature
    return F.cross_entropy(similarities, torch.arange(len(full), device=full.device))
