"""AM-LoRA's attentional mixture of the tasks' LoRA outputs (Eqs. 4 and 5), in rank space.

With y_i = s B_i A_i x the output of task i's LoRA and w_i its selector, one token's mixture is

    z_i = phi(w_i . y_i)        g = softmax(z_0, z_1, ..., z_t)        delta = sum_{i>=1} g_i y_i

where phi is the identity and z_0 = 0 unless said otherwise. Because w_i . y_i = (s B_i^T w_i) . (A_i x), no y_i is ever
built: the largest activation has tasks x rank numbers a token.
Source: AM-LoRA (arXiv 2409.19611); z_0 belongs to its zero LoRA y_0 = 0, whose selector can have no effect.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Activation = Literal["none", "tanh", "relu"]


def low_rank_codes(x: Tensor, down: Tensor) -> Tensor:
    """The input in each task's rank space: a_i = A_i x.

    Args:
        x: [..., d_in].
        down: A_i, [t, r, d_in].

    Returns:
        [..., t, r].
    """
    return (x @ down.flatten(0, 1).T).view(*x.shape[:-1], *down.shape[:2])


def selector_keys(up: Tensor, selector: Tensor, scale: float) -> Tensor:
    """The selectors in rank space: k_i = s B_i^T w_i.

    Args:
        up: B_i transposed, [t, r, d_out].
        selector: w_i, [t, d_out].
        scale: s; 1 for selectors that see B_i A_i x.

    Returns:
        [t, r].
    """
    return scale * torch.einsum("tro,to->tr", up, selector)


def selector_scores(codes: Tensor, keys: Tensor, *, activation: Activation = "none", offset: float = 0.0) -> Tensor:
    """Scores before the softmax: z_i = phi(k_i . a_i), and z_t - offset for the newest task t.

    Args:
        codes: a_i, [..., t, r].
        keys: k_i, [t, r].
        activation: phi.
        offset: Subtracted from the newest task's score.

    Returns:
        [..., t], in float32 at least.
    """
    scores = not_in_half(torch.einsum("...tr,tr->...t", codes, keys))
    if activation == "tanh":
        scores = scores.tanh()
    elif activation == "relu":
        scores = scores.relu()
    if offset:
        scores = torch.cat([scores[..., :-1], scores[..., -1:] - offset], dim=-1)
    return scores


def not_in_half(scores: Tensor) -> Tensor:
    """The same in float32 at least, in which softmaxes are computed."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def gate_values(scores: Tensor, zero_score: Tensor | None) -> Tensor:
    """Gates g_1 .. g_t: how much of each task's LoRA a token takes.

    Args:
        scores: z_i, [..., t].
        zero_score: The zero LoRA's z_0 [1], which takes what the gates leave of 1. None: there is no zero LoRA, and the
            gates sum to 1.

    Returns:
        [..., t].
    """
    if zero_score is None:
        return scores.softmax(-1)
    zero = zero_score.to(scores).expand(*scores.shape[:-1], 1)
    return torch.cat([zero, scores], dim=-1).softmax(-1)[..., 1:]


def mixed_update(codes: Tensor, gates: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """delta = sum_i g_i s B_i a_i.

    Args:
        codes: a_i, [..., t, r].
        gates: g_i, [..., t].
        up: B_i transposed, [t, r, d_out].
        scale: s.

    Returns:
        [..., d_out].
    """
    mixed = (codes * gates.to(codes.dtype).unsqueeze(-1)).flatten(-2)  # [..., t r]
    return scale * (mixed @ up.flatten(0, 1))
