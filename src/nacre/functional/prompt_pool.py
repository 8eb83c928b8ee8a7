"""Choosing prompts of a pool by their keys (L2P, arXiv 2112.08654, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def key_distances(query: Tensor, keys: Tensor) -> Tensor:
    """gamma(q, k) = 1 - cos(q, k), Eq. 3's matching, of every query and key, in float32 at least.

    Args:
        query: [B, d].
        keys: [M, d].

    Returns:
        [B, M], between 0 and 2; 1 for a key of zeros.
    """
    dtype = torch.promote_types(keys.dtype, torch.float32)
    return 1 - F.normalize(query.to(dtype), dim=-1) @ F.normalize(keys.to(dtype), dim=-1).T


def nearest_keys(distances: Tensor, count: int, penalties: Tensor | None = None) -> Tensor:
    """The keys that are chosen, Eq. 3; with penalties Eq. 4.

    Args:
        distances: gamma, [B, M].
        count: N, how many are chosen.
        penalties: h, [M]: distances are multiplied by them.

    Returns:
        The numbers of the N smallest [B, N], in rising order, so that the same prompts always stand in one order. Of
        equal ones the first are taken.
    """
    ranked = distances if penalties is None else distances * penalties
    return ranked.argsort(dim=-1, stable=True)[:, :count].sort(dim=-1).values


def frequency_penalties(counts: Tensor, *, smoothed: bool) -> Tensor | None:
    """How often each prompt was chosen in earlier tasks, as a share of all choices.

    Args:
        counts: n, [M].
        smoothed: (n + 1) / (sum n + M) instead of n / sum n, which is 0 for a prompt that was never chosen.

    Returns:
        h, [M]; None while nothing was counted.
    """
    total = counts.sum()
    if total == 0:
        return None
    return (counts + 1) / (total + len(counts)) if smoothed else counts / total
