"""Sums that are the same to the bit in any order, and from which a term can be taken out again without a trace.

Floating point addition rounds, so that a sum depends on the order of its terms. Whole numbers do not round. A number x
is kept as h + l 2^-50 units of 2^-12, with h and l whole and 0 <= l < 2^50: a step of 2^-62 over a range of 2^51. What
a float64 cannot hold of a sum is far larger than this step wherever the sum is larger than 2^-9; a smaller sum has an
absolute error of 2^-62 for each term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 2.0**12
FRACTION = 50
RANGE = 2.0**50
"""The largest absolute value of a term, and of the sum that it joins."""


@dataclass(frozen=True)
class ExactSum:
    """A sum of symmetric matrices, as the whole numbers of its upper triangle.

    Attributes:
        high: h [d (d + 1) / 2].
        low: l [d (d + 1) / 2].
    """

    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> ExactSum:
        """The sum of one matrix [d, d] in float64, of which the upper triangle counts.

        Raises:
            OverflowError: If a number is not finite, or too large.
        """
        return cls.of_triangle(triangle(matrix))

    @classmethod
    def of_triangle(cls, values: Tensor) -> ExactSum:
        """The sum of one matrix, given as `triangle` gives it.

        Raises:
            OverflowError: If a number is not finite, or too large.
        """
        if not bool((values.abs() < RANGE).all()):
            raise OverflowError("a term is not finite, or larger than 2^50")
        scaled = values * UNIT
        high = scaled.floor()
        low = ((scaled - high) * 2.0**FRACTION).round()
        return _carried(high.long(), low.long())

    def __add__(self, other: ExactSum) -> ExactSum:
        return _carried(self.high + other.high, self.low + other.low)

    def __sub__(self, other: ExactSum) -> ExactSum:
        return _carried(self.high - other.high, self.low - other.low)

    def matrix(self) -> Tensor:
        """The sum as a symmetric matrix [d, d] in float64."""
        width = (int((8 * len(self.high) + 1) ** 0.5) - 1) // 2
        values = (self.high.double() + self.low.double() * 2.0**-FRACTION) / UNIT
        whole = values.new_zeros(width, width)
        rows, columns = _upper(width, values.device)
        whole[rows, columns] = values
        whole[columns, rows] = values
        return whole


def triangle(matrix: Tensor) -> Tensor:
    """The upper triangle of a symmetric matrix [d, d], row by row [d (d + 1) / 2]."""
    return matrix[_upper(len(matrix), matrix.device)]


def _upper(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(width, width, device=device)
    return rows, columns


def _carried(high: Tensor, low: Tensor) -> ExactSum:
    """With 0 <= l < 2^50, so that equal sums are equal whole numbers."""
    return ExactSum(high + (low >> FRACTION), low & (2**FRACTION - 1))
