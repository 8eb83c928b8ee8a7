"""How two texts that were read apart relate: what a comparison needs, and a sum over one reading cannot say."""

from __future__ import annotations

import torch
from torch import Tensor

from nacre.functional.gaussian_evidence import TEMPERATURES


def pair_features(first: Tensor, second: Tensor) -> Tensor:
    """(|u - v|, u * v): u, v [n, d] -> [n, 2 d]."""
    return torch.cat([(first - second).abs(), first * second], dim=1)


def share_of_labels(found: Tensor, weight: float) -> Tensor:
    """log(L p(label)), p the softmax of weighted evidence over a task's labels: 0 where it says nothing.

    Args:
        found: e of each row and label [n, L].
        weight: 1 / T; 0: nothing is said.
    """
    if weight == 0:
        return torch.zeros_like(found)
    labels = torch.tensor(float(found.shape[1]), dtype=found.dtype, device=found.device)
    return (weight * found).log_softmax(1) + labels.log()


def best_pair_weight(base: Tensor, found: Tensor, truth: Tensor) -> float:
    """The weight at which rows that no sum holds are the least surprising; 0 if none is better than saying nothing.

    Args:
        base: e / T of each row and label by other evidence [n, L].
        found: e of each row and label by pairs [n, L]; -inf of a label that no other row has.
        truth: The number of each row's label [n].
    """
    rows = torch.arange(len(truth), device=truth.device)
    seen = found.isfinite().all(1) & base.isfinite().all(1)
    base, found, truth = base[seen], found[seen], truth[seen]
    if not len(truth):
        return 0.0
    rows = rows[: len(truth)]
    weights = [0.0, *(1 / TEMPERATURES).tolist()]
    surprises = [
        float(-(base + share_of_labels(found, weight)).log_softmax(1)[rows, truth].sum()) for weight in weights
    ]
    best: float = weights[min(range(len(weights)), key=lambda number: (surprises[number], number))]
    return best
