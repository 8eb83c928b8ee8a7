"""Signs of singular vectors, which a decomposition leaves open."""

from __future__ import annotations

from torch import Tensor


def signs_of(rows: Tensor) -> Tensor:
    """1 or -1 for each row [k, d], so that the entry of largest size becomes positive: [k, 1]; 0 for a row of zeros."""
    return rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
