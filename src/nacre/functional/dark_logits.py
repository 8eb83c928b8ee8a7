"""Logits that are kept and compared later, as dark experience replay does: whole, or the largest ones of each."""

from __future__ import annotations

import torch
from torch import Tensor

from nacre.functional.losses import IGNORED


def target_places(labels: Tensor, count: int) -> Tensor:
    """Indices of the target tokens among all positions, in their order.

    The number is given, so that nothing waits for the device.

    Args:
        labels: Target tokens, [...]; `IGNORED` where there is none.
        count: How many there are.

    Returns:
        [count].
    """
    return (labels.flatten() == IGNORED).to(torch.uint8).argsort(stable=True)[:count]


def largest_logits(logits: Tensor, kept: int) -> Tensor:
    """Tokens of the largest logits, the largest first: [n, V] -> [n, kept]."""
    return logits.topk(kept, dim=-1).indices


def condensed(logits: Tensor, tokens: Tensor) -> Tensor:
    """The logits of some tokens, and one number for all others: the logarithm of the sum of their exponentials.

    Args:
        logits: z, [n, V].
        tokens: Different ones in each row, [n, k] with k < V.

    Returns:
        [n, k + 1].
    """
    others = logits.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, tokens), others], dim=-1)


def squared_distance(live: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of (z - z')^2 over the entries whose kept number is finite, and the number of those.

    A class that is closed to a row has the logit -inf, then and now.

    Args:
        live: z, [n, k].
        kept: z', [n, k], without a graph.

    Returns:
        Two scalars, in float32 at least.
    """
    known = kept.isfinite()
    wide = torch.promote_types(live.dtype, torch.float32)
    differences = live.to(wide).masked_fill(~known, 0) - kept.to(wide).masked_fill(~known, 0)
    return differences.square().sum(), known.sum()
