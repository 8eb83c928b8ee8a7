"""Fixed random expansions of features, and least squares on them.

relu: h = max(z R, 0), R standard normal
Fourier: phi(z) = sqrt(2 / D) cos(z Omega + b), Omega normal with variance 2 gamma, b uniform in [0, 2 pi)
         phi(x) . phi(y) -> exp(-gamma ||x - y||^2) as D grows (Rahimi and Recht 2007)
ridge: W = (G + lambda I)^-1 Q, G = sum h h^T, Q = sum h y^T
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def standard_normal(rows: int, columns: int, seed: int) -> Tensor:
    """Numbers [rows, columns] in float64, drawn on the CPU: the same for a seed on every device."""
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def phases(count: int, seed: int) -> Tensor:
    """b [count] in float64."""
    return 2 * math.pi * torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relu_features(states: Tensor, projection: Tensor) -> Tensor:
    """h [B, D] of states [B, d], R [d, D]."""
    return (states @ projection).relu()


def fourier_features(states: Tensor, normals: Tensor, phases: Tensor, gamma: float) -> Tensor:
    """phi [B, D] of states [B, d].

    Args:
        states: z.
        normals: Omega / sqrt(2 gamma) [d, D].
        phases: b [D].
        gamma: Of the kernel.
    """
    features: Tensor = (math.sqrt(2 * gamma) * (states @ normals) + phases).cos()
    return features * math.sqrt(2 / len(phases))


def median_gamma(states: Tensor) -> float:
    """1 / (2 median^2) of the distances between states [n, d]; 1 where they do not differ."""
    distances = torch.pdist(states)
    distances = distances[distances > 0]
    return 1.0 if len(distances) == 0 else float(1 / (2 * distances.median().square()))


def ridge(moment: Tensor, targets: Tensor, strength: float) -> Tensor | None:
    """W [D, P] of G [D, D], Q [D, P] and lambda; None if G + lambda I has no inverse."""
    identity = torch.eye(len(moment)).to(moment)
    factor, failed = torch.linalg.cholesky_ex(moment + strength * identity)
    return None if bool(failed) else torch.cholesky_solve(targets, factor)
