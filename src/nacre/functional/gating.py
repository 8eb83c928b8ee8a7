"""AM-LoRA's attentional mixture of the tasks' LoRA outputs (Eqs. 4 and 5), in rank space.

With y_i = s B_i A_i x the output of task i's LoRA and w_i its selector, one token's mixture is

    z_i = w_i . y_i,  z_0 = 0        g = softmax(z_0, z_1, ..., z_t)        delta = sum_{i>=1} g_i y_i

Because z_i = (s B_i^T w_i) . (A_i x), no y_i is ever built: the largest activation has tasks x rank numbers a token.
Source: AM-LoRA (arXiv 2409.19611); y_0 = 0 is its zero LoRA, whose selector can have no effect.
"""

from __future__ import annotations

import torch
from torch import Tensor


def selector_keys(up: Tensor, selector: Tensor, scale: float) -> Tensor:
    """The selectors seen from rank space: k_i = s B_i^T w_i.

    up [t, r, d_out] (B_i transposed), selector [t, d_out]. Returns [t, r].
    """
    return scale * torch.einsum("tro,to->tr", up, selector)


def gate_values(codes: Tensor, keys: Tensor, *, zero_lora: bool = True) -> Tensor:
    """How much of each task's LoRA a token takes: g_1 .. g_t.

    codes [..., t, r] (a_i = A_i x), keys [t, r]. Returns [..., t]. With the zero LoRA the values sum to less than
    one and the rest is its share; without it they sum to one. Half precision is raised to float32 for the softmax.
    """
    scores = torch.einsum("...tr,tr->...t", codes, keys)
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if not zero_lora:
        return scores.softmax(-1).to(codes.dtype)
    zero = scores.new_zeros((*scores.shape[:-1], 1))
    return torch.cat([zero, scores], dim=-1).softmax(-1)[..., 1:].to(codes.dtype)


def gated_mixture(
    x: Tensor, down: Tensor, up: Tensor, selector: Tensor, *, scale: float, zero_lora: bool = True
) -> Tensor:
    """delta = sum_i g_i s B_i A_i x.

    x [..., d_in], down [t, r, d_in], up [t, r, d_out] (transposed), selector [t, d_out]. Returns [..., d_out].
    """
    tasks, rank, _ = down.shape
    codes = (x @ down.flatten(0, 1).T).view(*x.shape[:-1], tasks, rank)  # [..., t, r]
    gates = gate_values(codes, selector_keys(up, selector, scale), zero_lora=zero_lora)  # [..., t]
    mixed = (codes * gates.unsqueeze(-1)).flatten(-2)  # [..., t r]
    return scale * (mixed @ up.flatten(0, 1))
