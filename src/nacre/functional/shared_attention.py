"""SAPT's shared attention over task keys, and how far it has moved on an earlier task's inputs.

    q = LayerNorm(SiLU(W_2 W_1 e))          a = softmax(K q / sqrt(d))
    reflection = sum over earlier tasks i of mean over their inputs of KL(abar_i || a)

Source: SAPT (arXiv 2401.08295).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attention_scores(
    pooled: Tensor, keys: Tensor, first: Tensor, second: Tensor, norm: tuple[Tensor, Tensor]
) -> Tensor:
    """K q / sqrt(d), whose softmax is a.

    Args:
        pooled: e [B, d].
        keys: K [t, d].
        first: W_1 [h, d].
        second: W_2 [d, h].
        norm: Weight and bias of the layer norm, [d] each.

    Returns:
        [B, t].
    """
    width = keys.shape[1]
    query = F.layer_norm(F.silu(pooled.to(keys) @ first.T @ second.T), (width,), *norm)
    scores: Tensor = query @ keys.T / width**0.5
    return scores


def reflection(scores: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """sum over rows of share * KL(target || softmax(scores)), with 0 log 0 = 0.

    Args:
        scores: [n, t].
        targets: Each row's abar, zeros for later keys [n, t].
        shares: What each row counts, 1 / (rows of its task) [n].

    Returns:
        [].
    """
    by_row = (torch.xlogy(targets, targets) - targets * scores.log_softmax(-1)).sum(-1)
    return (by_row * shares).sum()
