"""Two opinions about a label, multiplied: the host's own, and that of sums over the tasks' rows.

log p(y | x) = log softmax_y (w log p_host(y | x) + e(y | x))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What w is chosen from. With 0 the host's own opinion does not count."""


def product(host: Tensor, evidence: Tensor, weights: Tensor) -> Tensor:
    """w log p_host + e of each row and label [B, L]. Where w is 0, the host may say anything.

    Args:
        host: log p_host [B, L]; -inf of a label that the host cannot give.
        evidence: e [B, L].
        weights: w of each row [B].
    """
    weighted = weights.unsqueeze(1) * host
    return torch.where(weights.unsqueeze(1) == 0, evidence, weighted + evidence)


def best_products(
    host: Callable[[Sequence[int], Sequence[int]], Tensor], evidence: Tensor, weights: Tensor, first: int = 2
) -> Tensor:
    """The number of the label with the largest `product` in each row [B], where the host is asked about few labels.

    log p_host is 0 at most. So a label whose evidence alone is below what another one has in all cannot be the best.
    The host is asked about the labels with the most evidence, and then about those that may still be the best.

    Args:
        host: Asked about some rows and labels, by their numbers: log p_host [rows, labels]; first about all rows.
        evidence: e [B, L].
        weights: w of each row [B].
        first: How many labels of each row it is asked about at first.
    """
    host_counts = (weights > 0).unsqueeze(1).expand_as(evidence)
    scores = torch.where(host_counts, -torch.inf, evidence)
    likeliest = evidence.topk(min(first, evidence.shape[1]), 1).indices
    is_open = torch.zeros_like(host_counts).scatter(1, likeliest, True) & host_counts
    asked = ~host_counts
    rows = torch.arange(len(evidence), device=evidence.device)  # all at first: a routing has read them as one batch
    while bool(is_open.any()):
        labels = is_open.any(0).nonzero()[:, 0]
        block = rows.unsqueeze(1), labels
        scores[block] = product(host(rows.tolist(), labels.tolist()), evidence[block], weights[rows]).to(scores)
        asked[block] = True
        is_open = ~asked & (evidence >= scores.amax(1, keepdim=True))
        rows = is_open.any(1).nonzero()[:, 0]
    return scores.argmax(1)


def best_weight(host: Tensor, evidence: Tensor, truth: Tensor) -> float:
    """The w of `WEIGHTS` at which rows that neither was made of are the least surprising; of equals, the smallest.

    Args:
        host: log p_host [n, L].
        evidence: e [n, L].
        truth: The number of each row's label [n].
    """
    surprises = []
    for weight in WEIGHTS:
        posterior = product(host, evidence, host.new_full((len(host),), weight)).log_softmax(1)
        surprises.append(float(-posterior[torch.arange(len(truth), device=truth.device), truth].sum()))
    return min(zip(surprises, WEIGHTS, strict=True), key=lambda tried: (math.isnan(tried[0]), *tried))[1]


def offset_normalizer(host: Tensor, evidence: Tensor, targets: Tensor) -> Tensor:
    """sum over rows of (log sum_y exp(log p_host(y) + e(y)) - e(target)), [].

    Added to -log p_host(target), it is -log softmax_y (log p_host(y) + e(y)) of the target. Of a row of whose target
    nothing is known, e is 0.

    Args:
        host: log p_host [B, L], with its graph; -inf of a label that the host cannot give.
        evidence: e [B, L]; -inf of a label of which nothing is known.
        targets: The number of each row's target [B].
    """
    evidence = evidence.to(host)
    own = evidence.gather(1, targets.unsqueeze(1))
    evidence = torch.where(own.isfinite(), evidence, 0)
    return ((host + evidence).logsumexp(1) - evidence.gather(1, targets.unsqueeze(1)).squeeze(1)).sum()
