"""A dense mixture of low-rank experts, chosen token by token.

    g = softmax(W_g x)          delta = sum_e g_e s B_e A_e x

The experts lie side by side in one A [E r, d_in] and one B [d_out, E r], so that two products compute all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expert_gates(x: Tensor, router: Tensor) -> Tensor:
    """g = softmax(W_g x), in float32 at least, under autocast too.

    Args:
        x: [..., d_in].
        router: W_g [E, d_in].

    Returns:
        [..., E].
    """
    with torch.autocast(x.device.type, enabled=False):
        return (x.to(router.dtype) @ router.T).softmax(-1)


def gated_codes(codes: Tensor, gates: Tensor) -> Tensor:
    """Each expert's codes times its gate: codes [..., E r], gates [..., E] -> [..., E r]."""
    by_expert = codes.view(*gates.shape, -1)  # [..., E, r]
    return (by_expert * gates.to(codes.dtype).unsqueeze(-1)).flatten(-2)
