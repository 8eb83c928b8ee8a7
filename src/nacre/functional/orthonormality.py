"""How far factors are from orthonormal."""

from __future__ import annotations

import torch
from torch import Tensor


def orthonormality_error(rows: Tensor) -> Tensor:
    """||M M^T - I||_F of matrices whose rows should be orthonormal. Its gradient is 0 where the error is.

    Args:
        rows: Stacked matrices M, [..., r, d].

    Returns:
        [...].
    """
    gram = rows @ rows.transpose(-1, -2)  # [..., r, r]
    identity = torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device)
    error: Tensor = torch.linalg.vector_norm(gram - identity, dim=(-2, -1))
    return error
