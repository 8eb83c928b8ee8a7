"""Terms added to the loss, as functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def absolute_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the absolute values of all entries: the L1 norm of AM-LoRA's Eq. 6. Returns []."""
    return torch.stack([tensor.abs().sum() for tensor in tensors]).sum()
