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
    """What each task's LoRA sees of the input: a_i = A_i x.

    x [..., d_in], down [t, r, d_in]. Returns [..., t, r].
    """
    return (x @ down.flatten(0, 1).T).view(*x.shape[:-1], *down.shape[:2])


def selector_keys(up: Tensor, selector: Tensor, scale: float) -> Tensor:
    """The selectors seen from rank space: k_i = s B_i^T w_i.

    up [t, r, d_out] (B_i transposed), selector [t, d_out]; scale: s, or 1 for selectors that see B_i A_i x. Returns
    [t, r].
    """
    return scale * torch.einsum("tro,to->tr", up, selector)


def selector_scores(codes: Tensor, keys: Tensor, *, activation: Activation = "none", offset: float = 0.0) -> Tensor:
    """What the softmax compares: z_i = phi(k_i . a_i), and z_t - offset for the newest task t.

    codes [..., t, r], keys [t, r]. Returns [..., t], at least float32.
    """
    scores = torch.einsum("...tr,tr->...t", codes, keys)
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if activation == "tanh":
        scores = scores.tanh()
    elif activation == "relu":
        scores = scores.relu()
    if offset:
        scores = torch.cat([scores[..., :-1], scores[..., -1:] - offset], dim=-1)
    return scores


def gate_values(scores: Tensor, zero_score: Tensor | None) -> Tensor:
    """How much of each task's LoRA a token takes: g_1 .. g_t.

    scores [..., t]. zero_score [1]: the zero LoRA's z_0, which takes what the values leave of 1; None: there is no
    zero LoRA and they sum to 1. Returns [..., t].
    """
    if zero_score is None:
        return scores.softmax(-1)
    zero = zero_score.to(scores).expand(*scores.shape[:-1], 1)
    return torch.cat([zero, scores], dim=-1).softmax(-1)[..., 1:]


def mixed_update(codes: Tensor, gates: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """delta = sum_i g_i s B_i a_i.

    codes [..., t, r], gates [..., t], up [t, r, d_out] (B_i transposed). Returns [..., d_out].
    """
    mixed = (codes * gates.to(codes.dtype).unsqueeze(-1)).flatten(-2)  # [..., t r]
    return scale * (mixed @ up.flatten(0, 1))
