"""Where the pairs of tasks and labels lie that a part tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Means of pairs in the space in which rows of a pair have unit variance, as the part sees it.

    Attributes:
        pairs: Tasks and their labels, sorted.
        whitened: The mean of each [P, k], in float64.
    """

    pairs: Sequence[tuple[str, str]]
    whitened: Tensor
