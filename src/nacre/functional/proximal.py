"""Proximal maps: what replaces the gradient of a term that has a kink."""

from __future__ import annotations

from torch import Tensor


def soft_threshold(tensor: Tensor, amount: float) -> Tensor:
    """argmin_v |v - w|^2 / 2 + a |v|_1 = sign(w) max(|w| - a, 0), entry by entry.

    Entries within +-a become exactly 0; a = 0 changes nothing; a NaN stays.
    Source: the proximal map of the L1 norm (Parikh and Boyd, Proximal Algorithms, 2014, section 6.5.2).

    Args:
        tensor: w, of any shape.
        amount: a >= 0.
    """
    return tensor - tensor.clamp(-amount, amount)
