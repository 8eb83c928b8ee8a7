"""Votes of the nearest rows: class p gets sum over those of the k nearest that are p's of exp(s)."""

from __future__ import annotations

from torch import Tensor


def log_votes(similarity: Tensor, classes: Tensor, count: int, k: int) -> Tensor:
    """The logarithm of each class's votes [B, P], less the largest similarity; -inf where a class has none.

    Args:
        similarity: s of each row to each kept one [B, M].
        classes: The class of each kept row [M].
        count: P.
        k: How many vote; of equal ones, those that stand first.
    """
    nearest, rows = similarity.sort(dim=1, descending=True, stable=True)
    nearest, rows = nearest[:, :k], rows[:, :k]
    votes = similarity.new_zeros(len(similarity), count)
    return votes.scatter_add(1, classes[rows], (nearest - nearest[:, :1]).exp()).log()
