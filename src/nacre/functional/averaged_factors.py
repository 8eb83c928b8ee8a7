"""SLAO: a new task's A begins orthonormal in the last one's row space, and B is averaged over the tasks.

A^T = Q R, the diagonal of R not negative        A <- Q^T
B_m <- B_m + (B_i - B_m) / i^p                   p = 1/2; with p = 1 the plain mean
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def orthonormal_rows(down: Tensor) -> Tensor:
    """Q^T, an orthonormal basis of the rows' span, which QR with a positive diagonal makes unique.

    Args:
        down: A [r, d_in] of rank r.

    Returns:
        [r, d_in] in float64 on the CPU.
    """
    basis, triangle = torch.linalg.qr(down.detach().to("cpu", torch.float64).T)
    rows: Tensor = (basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0)).T
    return rows


def averaged(before: Tensor, newest: Tensor, number: int, power: float) -> Tensor:
    """B_m with one more task, the number of tasks i now: recent tasks weigh more where p is below 1."""
    return before + (newest - before) / math.pow(number, power)
