"""AM-LoRA's mixture with a hand-written backward pass: the same function as ``gating``, at little more than the cost of
its four large products.

Kept for the backward pass are the input, the codes a_i [t r] and the gates [t] of every token; no feature of a task
is. Everything of the size tasks x tokens lies with its tokens last, so that sums over ranks and tasks run along long
rows. Notation, for one token with u_i = B_i^T (dL/d delta):

    delta = s sum_i g_i B_i a_i      a_i = A_i x      z_i = phi(k_i . a_i)      k_i = c B_i^T w_i      c = s or 1
    dL/dg_i = s u_i . a_i            dL/dz_i = g_i (dL/dg_i - m)                m = sum_j g_j dL/dg_j
    dL/da_i = s g_i u_i + phi'(.) dL/dz_i k_i          dL/dk_i = sum over tokens of phi'(.) dL/dz_i a_i
    dL/dw_i = c B_i dL/dk_i          dL/dz_0 = -g_0 m
    dL/dA_t = dL/da_t x^T            dL/dB_t = s dL/ddelta (g_t a_t)^T + c w_t (dL/dk_t)^T

The second term of dL/dB_t is the way through the selector's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nacre.functional.gating import Activation


@dataclass(frozen=True)
class Mixture:
    """How is mixed, as in ``gating``. scale: s. key_scale: c. zero: None without a zero LoRA. offset: of the newest's
    score."""

    scale: float
    key_scale: float
    zero_lora: bool
    activation: Activation = "none"
    offset: float = 0.0


def fused_mixture(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    selector: Tensor,
    zero_score: Tensor | None,
    stacked_down: Tensor,
    stacked_up: Tensor,
    mixture: Mixture,
    base: tuple[Tensor, Tensor | None] | None = None,
) -> Tensor:
    """delta of all tasks, or W x + bias + delta where the frozen base (W [d_out, d_in], bias) is given.

    x [..., d_in]; down [r, d_in], up [d_out, r]: A_t and B_t of the newest task, which alone are trained; selector
    [t, d_out]; zero_score: z_0 [1], None for 0 (or without a zero LoRA, as ``mixture`` says). stacked_down [t r, d_in],
    stacked_up [t r, d_out]: all tasks' A_i and B_i^T, the newest's last; their last r rows are written here, so that no
    large tensor is put together in a step. Returns [..., d_out].
    """
    with torch.no_grad():
        rank = len(down)
        stacked_down[-rank:].copy_(down)
        stacked_up[-rank:].copy_(up.T)
    weight, bias = base if base is not None else (None, None)
    flat: Tensor = _FusedMixture.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), down, up, selector, zero_score, (stacked_down, stacked_up, weight, bias), mixture
    )
    return flat.view(*x.shape[:-1], up.shape[0])


class _FusedMixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [T, d_in]
        down: Tensor,
        up: Tensor,
        selector: Tensor,
        zero_score: Tensor | None,
        frozen: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        mixture: Mixture,
    ) -> Tensor:
        stacked_down, stacked_up, weight, bias = frozen
        tasks, rank = len(selector), len(down)
        keys = _keys(stacked_up.view(tasks, rank, -1), selector, mixture)  # [t, r]
        codes = torch.mm(stacked_down, x.T).view(tasks, rank, -1)  # [t, r, T]
        gates = _gates(_scores(codes, keys, mixture), zero_score, mixture)  # [t, T]
        mixed = (codes * gates.unsqueeze(1)).view(tasks * rank, -1).T  # [T, t r]
        # The newest tensors are saved so that autograd complains if a step was taken before the backward pass.
        ctx.save_for_backward(x, down, up, selector, zero_score, codes, gates)
        ctx.frozen, ctx.mixture = (stacked_down, stacked_up, weight), mixture
        if weight is None:
            return torch.mm(mixed, stacked_up).mul_(mixture.scale)
        return F.linear(x, weight, bias).addmm_(mixed, stacked_up, alpha=mixture.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # [T, d_out]
        x, down, _, selector, zero_score, codes, gates = ctx.saved_tensors
        stacked_down, stacked_up, weight = ctx.frozen
        mixture: Mixture = ctx.mixture
        tasks, rank = len(selector), len(down)
        ups = stacked_up.view(tasks, rank, -1)
        keys = _keys(ups, selector, mixture)

        reached = torch.mm(stacked_up, gradient.T).view(tasks, rank, -1)  # u_i: [t, r, T]
        by_gate = (reached * codes).sum(1).mul_(mixture.scale)  # dL/dg_i: [t, T]
        mean = (gates * by_gate).sum(0)  # m: [T]
        by_score = gates * (by_gate - mean)  # dL/dz_i: [t, T]
        by_raw = _through_activation(by_score, codes, keys, mixture)
        by_keys = torch.bmm(codes, by_raw.unsqueeze(2)).squeeze(2)  # [t, r]
        # In place: dL/da_i takes the place of u_i.
        by_codes = reached.mul_((gates * mixture.scale).unsqueeze(1)).baddbmm_(keys.unsqueeze(2), by_raw.unsqueeze(1))

        needs = ctx.needs_input_grad
        by_x = by_down = by_up = by_selector = by_zero = None
        if needs[0]:
            flat = by_codes.view(tasks * rank, -1).T
            by_x = torch.mm(flat, stacked_down) if weight is None else torch.mm(gradient, weight)
            if weight is not None:
                by_x.addmm_(flat, stacked_down)
        if needs[1]:
            by_down = torch.mm(by_codes[-1], x)
        if needs[2]:
            mixed = codes[-1] * (gates[-1] * mixture.scale)  # [r, T]
            by_up = torch.mm(gradient.T, mixed.T)
            by_up.addmm_(selector[-1:].T, by_keys[-1:], alpha=mixture.key_scale)
        if needs[3]:
            by_selector = torch.bmm(by_keys.unsqueeze(1), ups).squeeze(1).mul_(mixture.key_scale)
        if needs[4]:
            # g_0 anew: 1 - sum_i g_i would lose its digits where it is small.
            scores = _scores(codes, keys, mixture)
            zero = (zero_score - torch.logaddexp(scores.logsumexp(0), zero_score)).exp()
            by_zero = -(zero * mean).sum().view(1)
        return by_x, by_down, by_up, by_selector, by_zero, None, None


def _keys(ups: Tensor, selector: Tensor, mixture: Mixture) -> Tensor:
    """k_i = c B_i^T w_i: ups [t, r, d_out], selector [t, d_out] -> [t, r]."""
    return torch.bmm(ups, selector.unsqueeze(2)).squeeze(2).mul_(mixture.key_scale)


def _raw(codes: Tensor, keys: Tensor) -> Tensor:
    """k_i . a_i: codes [t, r, T], keys [t, r] -> [t, T]."""
    return torch.bmm(keys.unsqueeze(1), codes).squeeze(1)


def _scores(codes: Tensor, keys: Tensor, mixture: Mixture) -> Tensor:
    scores = _raw(codes, keys)
    if mixture.activation == "tanh":
        scores = scores.tanh_()
    elif mixture.activation == "relu":
        scores = scores.relu_()
    if mixture.offset:
        scores[-1] -= mixture.offset
    return scores


def _through_activation(by_score: Tensor, codes: Tensor, keys: Tensor, mixture: Mixture) -> Tensor:
    """From dL/dz_i to dL/d(k_i . a_i). The scores are computed anew: to keep them would cost as much as the gates."""
    if mixture.activation == "none":
        return by_score
    raw = _raw(codes, keys)
    if mixture.activation == "tanh":
        return by_score * (1 - raw.tanh_().square_())
    return by_score * (raw > 0)


def _gates(scores: Tensor, zero_score: Tensor | None, mixture: Mixture) -> Tensor:
    """g_1 .. g_t: scores [t, T] -> [t, T], in their place."""
    if not mixture.zero_lora:
        return scores.softmax(0)
    zero = scores.new_zeros(1) if zero_score is None else zero_score.detach()
    highest = torch.maximum(scores.amax(0), zero)  # so that no exponential overflows
    powers = scores.sub_(highest).exp_()
    return powers.div_(powers.sum(0) + (zero - highest).exp_())
