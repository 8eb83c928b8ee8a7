"""How much of each task's module an input takes, by its cosine with the tasks' keys (MoCL).

c_i = cos(q, v_i)          w = softmax(kappa c) over i <= j          direct: w = c
"""

from __future__ import annotations

import torch
from torch import Tensor


def composition_weights(cosines: Tensor, last: Tensor, sharpness: float | None) -> Tensor:
    """w, zeros behind each row's last module.

    Args:
        cosines: c [B, t], oldest task first.
        last: j [B], the number of the last module that takes part, from 0.
        sharpness: kappa; None: w = c.

    Returns:
        [B, t].
    """
    takes_part = torch.arange(cosines.shape[1], device=cosines.device) <= last.unsqueeze(1)
    if sharpness is None:
        return torch.where(takes_part, cosines, 0)
    return (sharpness * cosines).masked_fill(~takes_part, -torch.inf).softmax(-1)
