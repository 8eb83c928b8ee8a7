"""SLAO: a new task's A begins orthonormal in the last one's row space, and B is averaged over the tasks.

A^T = Q R, the diagonal of R not negative        A <- Q^T
B_m <- B_m + (B_i - B_m) / i^p                   p = 1/2; with p = 1 the plain mean
"""

from __future__ import annotations

import math

from torch import Tensor


def averaged(before: Tensor, newest: Tensor, number: int, power: float) -> Tensor:
    """B_m with one more task, the number of tasks i now: recent tasks weigh more where p is below 1."""
    return before + (newest - before) / math.pow(number, power)
