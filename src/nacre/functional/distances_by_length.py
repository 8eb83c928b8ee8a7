"""How far from their class a task's own rows are, at each length; kept as a trend and a histogram around it.

A mean over many tokens varies less than one over few; in a long prompt, though, the instruction that all rows share
counts for less. With one quantile for all lengths the farthest own rows let foreign ones of other lengths pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_OCTAVE, BINS_PER_OCTAVE = -8, 8

DISTANCE_BINS = 256
"""Of a histogram: eight to the octave, from 2^-8 to 2^24."""


@dataclass(frozen=True)
class Trend:
    """The squared distance that is usual at a length: scale * n^slope.

    Rows shorter or longer than all that were seen count as the shortest or longest. Without any argument it is 1.

    Attributes:
        scale: At a length of one token.
        slope: Of log d over log n.
        shortest: The least n seen.
        longest: The largest n seen.
    """

    scale: float = 1.0
    slope: float = 0.0
    shortest: int = 1
    longest: int = 1

    @classmethod
    def of(cls, squared: Tensor, lengths: Tensor) -> Trend:
        """By least squares of log d; one more row, an e-fold away, says that there is no slope.

        Args:
            squared: Squared distances [n].
            lengths: Of the rows, in tokens [n].
        """
        if not len(squared):
            return cls()
        usual = squared.double().clamp(min=2.0**LEAST_OCTAVE).log()
        away = lengths.double().log()
        middle = float(away.mean())
        away = away - middle
        slope = float((away * (usual - usual.mean())).sum() / (1 + away.square().sum()))
        scale = float((usual.mean() - slope * middle).exp())
        return cls(scale, slope, int(lengths.min()), int(lengths.max()))

    def at(self, lengths: Tensor) -> Tensor:
        """The squared distance that is usual at these lengths [B], in float64."""
        return self.scale * lengths.clamp(self.shortest, self.longest).double() ** self.slope


def histogram(distances: Tensor) -> Tensor:
    """How many of these distances [n] fall into each bin: whole numbers [DISTANCE_BINS]."""
    bins = ((distances.clamp(min=1e-30).log2() - LEAST_OCTAVE) * BINS_PER_OCTAVE).floor().long()
    return torch.bincount(bins.clamp(0, DISTANCE_BINS - 1), minlength=DISTANCE_BINS)


def quantile(counts: Tensor, share: float) -> float:
    """The upper end of the first bin up to which at least this share of the counted distances lies.

    Args:
        counts: A histogram [DISTANCE_BINS] that counts something.
        share: In (0, 1].
    """
    below = counts.cumsum(0)
    number = int((below < share * int(below[-1])).sum())
    return float(2.0 ** ((number + 1) / BINS_PER_OCTAVE + LEAST_OCTAVE))
