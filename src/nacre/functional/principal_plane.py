"""The plane that shows the most of how points lie apart.

    c_p = x_p - mean over p of x_p          C = U S V^T          position of p = (c_p . v_1, c_p . v_2)

v_1 and v_2 are the first two right singular vectors, each with the sign that makes its largest coordinate positive.
Distances in the plane are in the points' own units, and never larger than between the points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def principal_plane(points: Tensor) -> tuple[Tensor, float]:
    """Positions in the plane.

    Args:
        points: x [P, d].

    Returns:
        [P, 2] in float64, 0 along an axis that the points do not have; and the share of their squared distances from
        their mean that the plane shows, 1 where all of them are one.
    """
    centered = points.double() - points.double().mean(0)
    sizes, axes = torch.linalg.svd(centered, full_matrices=False)[1:]
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    found = centered @ axes[:2].T
    spread = sizes.square()
    shown = float(spread[:2].sum() / spread.sum()) if bool(spread.sum() > 0) else 1.0
    return F.pad(found, (0, 2 - found.shape[1])), shown
