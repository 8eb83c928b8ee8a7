"""Experts mixed token by token, by how well each has predicted the tokens so far (DEMix, arXiv 2108.05036)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixed_by_posterior(log_probabilities: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """`log sum_k p(k | x_<n) p(x_n | x_<n, k)`, with `p(k | x_<n)` proportional to `p(x_<n | k)` and a uniform prior.

    Summed over a row's counted tokens it is `log (1/t) sum_k p(x | k)`.

    Args:
        log_probabilities: Of each expert, for every next token [B, t, S, V].
        tokens: The tokens that come next [B, S].
        counted: Which of them are predicted [B, S]; the others say nothing of an expert.

    Returns:
        [B, S, V].
    """
    experts = log_probabilities.shape[1]
    next_tokens = tokens.masked_fill(~counted, 0)[:, None, :, None].expand(-1, experts, -1, 1)
    seen = log_probabilities.gather(-1, next_tokens).squeeze(-1).masked_fill(~counted[:, None], 0.0)  # [B, t, S]
    before = seen.cumsum(-1) - seen - math.log(experts)
    return torch.logsumexp(before.log_softmax(1).unsqueeze(-1) + log_probabilities, 1)
