"""AM-LoRA's mixture with a hand-written backward pass: the same function as ``gating``, at little more than the cost of
its four large products.

Kept for the backward pass are the input, the codes a_i [t r] and the gates [t] of every token; no feature of a task
is. Everything of the size tasks x tokens lies with its tokens last, so that sums over ranks and tasks run along long
rows. Notation, for one token with u_i = B_i^T (dL/d delta); every gradient below is to be multiplied by s:

    delta = s sum_i g_i B_i a_i      a_i = A_i x      z_i = phi(k_i . a_i)      k_i = c B_i^T w_i      c = s or 1
    dL/dg_i = u_i . a_i              dL/dz_i = g_i (dL/dg_i - m)                m = sum_j g_j dL/dg_j
    dL/da_i = g_i u_i + phi'(.) dL/dz_i k_i            dL/dk_i = sum over tokens of phi'(.) dL/dz_i a_i
    dL/dw_i = c B_i dL/dk_i          dL/dz_0 = -g_0 m
    dL/dA_t = dL/da_t x^T            dL/dB_t = dL/ddelta (g_t a_t)^T + c w_t (dL/dk_t)^T

The second term of dL/dB_t is the way through the selector's key. Scales are given to products (``alpha``) rather than
multiplied in, because every operation on its own costs a launch on an accelerator and a pass over memory elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nacre.functional.gating import Activation

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""With respect to x, what the base reads instead, A_t, B_t, the selectors and z_0; None where nobody wants one."""


@dataclass(frozen=True)
class Mixture:
    """How is mixed, as in ``gating``. scale: s. key_scale: c. zero: None without a zero LoRA. offset: of the newest's
    score."""

    scale: float
    key_scale: float
    zero_lora: bool
    activation: Activation = "none"
    offset: float = 0.0


@dataclass(frozen=True)
class Frozen:
    """What a mixture reads and no gradient reaches. down [t r, d_in], up [t r, d_out]: A_i and B_i^T of all tasks, the
    newest's last; weight [d_out, d_in], bias [d_out]: the base's, if it is computed along."""

    down: Tensor
    up: Tensor
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    @torch.no_grad()
    def with_newest(
        cls, stacks: tuple[Tensor, Tensor], down: Tensor, up: Tensor, base: tuple[Tensor, Tensor | None] | None
    ) -> Frozen:
        """The newest's A_t [r, d_in] and B_t [d_out, r] are written into the stacks' last rows."""
        stacks[0][-len(down) :].copy_(down)
        stacks[1][-len(down) :].copy_(up.T)
        return cls(*stacks, *(base or (None, None)))


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
    undropped: Tensor | None = None,
) -> Tensor:
    """delta of all tasks, or W x + bias + delta where the frozen base (W [d_out, d_in], bias) is given.

    x [..., d_in]; undropped [..., d_in]: what the base reads, if that is not x. down [r, d_in], up [d_out, r]: A_t and
    B_t of the newest task, which alone are trained; selector [t, d_out]; zero_score: z_0 [1], None for 0 (or without a
    zero LoRA, as ``mixture`` says). stacked_down [t r, d_in], stacked_up [t r, d_out]: all tasks' A_i and B_i^T, the
    newest's last; their last r rows are written here, so that no large tensor is put together in a step. Returns
    [..., d_out].
    """
    frozen = Frozen.with_newest((stacked_down, stacked_up), down, up, base)
    flat = x.reshape(-1, x.shape[-1])
    read = None if undropped is None else undropped.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        found: Tensor = _FusedMixture.apply(  # type: ignore[no-untyped-call]
            flat, read, down, up, selector, zero_score, frozen, mixture
        )
    else:
        codes, _, gates = _computed(flat, selector, zero_score, frozen, mixture)
        mixed = codes.mul_(without_zero(gates, mixture).unsqueeze(1))
        found = combined(flat if read is None else read, mixed, frozen.up, frozen, mixture)
    return found.view(*x.shape[:-1], up.shape[0])


class _FusedMixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [T, d_in]
        undropped: Tensor | None,  # [T, d_in]
        down: Tensor,
        up: Tensor,
        selector: Tensor,
        zero_score: Tensor | None,
        frozen: Frozen,
        mixture: Mixture,
    ) -> Tensor:
        codes, keys, gates = _computed(x, selector, zero_score, frozen, mixture)
        # The newest tensors are saved so that autograd complains if a step was taken before the backward pass.
        ctx.save_for_backward(x, down, up, selector, codes, gates, keys)
        ctx.frozen, ctx.mixture, ctx.apart = frozen, mixture, undropped is not None
        mixed = codes * without_zero(gates, mixture).unsqueeze(1)
        return combined(x if undropped is None else undropped, mixed, frozen.up, frozen, mixture)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # [T, d_out]
        x, _, _, selector, codes, gates, keys = ctx.saved_tensors
        frozen, mixture = ctx.frozen, ctx.mixture
        found = gradients(
            ctx.needs_input_grad, gradient, x, codes, without_zero(gates, mixture), gates[0], keys, selector,
            frozen, mixture, newest=-1, apart=ctx.apart
        )  # fmt: skip
        return *found, None, None


def _computed(
    x: Tensor, selector: Tensor, zero_score: Tensor | None, frozen: Frozen, mixture: Mixture
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [t, r, T], keys [t, r] and gates as ``softmaxed`` gives them."""
    tasks = len(selector)
    keys = keys_of(frozen.up.view(tasks, -1, frozen.up.shape[1]), selector, mixture)
    codes = torch.mm(frozen.down, x.T).view(tasks, -1, len(x))
    rows = score_rows(tasks, x, zero_score, mixture)
    torch.bmm(keys.unsqueeze(1), codes, out=without_zero(rows, mixture).unsqueeze(1))
    return codes, keys, softmaxed(rows, mixture)


def keys_of(ups: Tensor, selector: Tensor, mixture: Mixture) -> Tensor:
    """k_i = c B_i^T w_i: ups [t, r, d_out], selector [t, d_out] -> [t, r]."""
    unread = ups[:, :, :1]  # beta = 0: only its shape counts
    return torch.baddbmm(unread, ups, selector.unsqueeze(2), beta=0, alpha=mixture.key_scale).squeeze(2)


def score_rows(tasks: int, x: Tensor, zero_score: Tensor | None, mixture: Mixture) -> Tensor:
    """Room for what the softmax compares: [t, T], with a zero LoRA [t + 1, T], where row 0 is z_0 already."""
    rows = x.new_empty(tasks + mixture.zero_lora, len(x))
    if mixture.zero_lora:
        if zero_score is None:
            rows[0].zero_()
        else:
            rows[0].copy_(zero_score)
    return rows


def without_zero(rows: Tensor, mixture: Mixture) -> Tensor:
    """The tasks' own rows, a view: [t, T]."""
    return rows[1:] if mixture.zero_lora else rows


def softmaxed(rows: Tensor, mixture: Mixture) -> Tensor:
    """Gates from ``score_rows`` that hold k_i . a_i, which are written over. The zero LoRA's, if any, are row 0."""
    scores = without_zero(rows, mixture)
    if mixture.activation == "tanh":
        scores.tanh_()
    elif mixture.activation == "relu":
        scores.relu_()
    if mixture.offset:
        scores[-1].sub_(mixture.offset)
    return rows.softmax(0)


def combined(x: Tensor, mixed: Tensor, up: Tensor, frozen: Frozen, mixture: Mixture) -> Tensor:
    """delta from mixed codes g_i a_i [k, r, T] and their B_i^T [k r, d_out], onto the base's output: [T, d_out]."""
    flat = mixed.flatten(0, 1).T
    if frozen.weight is None:
        return torch.addmm(up[:1], flat, up, beta=0, alpha=mixture.scale)  # beta = 0: up[:1] is not read
    return F.linear(x, frozen.weight, frozen.bias).addmm_(flat, up, alpha=mixture.scale)


def gradients(
    needs: tuple[bool, ...],
    gradient: Tensor,
    x: Tensor,
    codes: Tensor,
    gates: Tensor,
    zero_gate: Tensor,
    keys: Tensor,
    selector: Tensor,
    frozen: Frozen,
    mixture: Mixture,
    *,
    newest: int,
    apart: bool,
) -> Gradients:
    """What the module's docstring says, for k tasks.

    needs: which of them are wanted. gradient: dL/d output [T, d_out]; x [T, d_in]; codes [k, r, T]; gates [k, T];
    zero_gate: g_0 [T], read for z_0 only; keys [k, r]; selector [.., d_out], the newest's last; frozen: of the k tasks;
    newest: where the newest is among them; apart: whether the base read something else than x.
    """
    down, up, weight = frozen.down, frozen.up, frozen.weight
    tasks, rank = keys.shape
    scale = mixture.scale
    reached = torch.mm(up, gradient.T).view(tasks, rank, -1)  # u_i: [k, r, T]
    by_gate = (reached * codes).sum(1)  # dL/dg_i: [k, T]
    # g_i (dL/dg_i - m) in one pass; that the gates given do not sum to 1 is no matter.
    by_score = torch._softmax_backward_data(by_gate, gates, 0, gates.dtype)
    by_raw = _through_activation(by_score, codes, keys, mixture)
    by_keys = torch.bmm(codes, by_raw.unsqueeze(2)).squeeze(2)  # [k, r]
    # In place: dL/da_i takes the place of u_i.
    by_codes = reached.mul_(gates.unsqueeze(1)).addcmul_(keys.unsqueeze(2), by_raw.unsqueeze(1))

    by_x = by_undropped = by_down = by_up = by_selector = by_zero = None
    flat = by_codes.view(tasks * rank, -1).T
    if needs[0]:
        if weight is None or apart:
            by_x = torch.addmm(down[:1], flat, down, beta=0, alpha=scale)
        else:
            by_x = torch.mm(gradient, weight).addmm_(flat, down, alpha=scale)
    if needs[1] and weight is not None:
        by_undropped = torch.mm(gradient, weight)
    if needs[2]:
        by_down = torch.addmm(down[:1], by_codes[newest], x, beta=0, alpha=scale)
    if needs[3]:
        # Transposed, because a product with r columns takes three times as long as one with r rows.
        transposed = torch.addmm(up[:1], codes[newest] * gates[newest], gradient, beta=0, alpha=scale)
        transposed.addmm_(by_keys[newest].unsqueeze(1), selector[-1:], alpha=scale * mixture.key_scale)
        by_up = transposed.T.contiguous()
    if needs[4]:
        ups = up.view(tasks, rank, -1)
        by_selector = torch.baddbmm(
            ups[:, :1], by_keys.unsqueeze(1), ups, beta=0, alpha=scale * mixture.key_scale
        ).squeeze(1)
    if needs[5]:
        mean = (gates * by_gate).sum(0)  # m: [T]
        by_zero = torch.dot(zero_gate, mean).mul_(-scale).view(1)
    return by_x, by_undropped, by_down, by_up, by_selector, by_zero


def _through_activation(by_score: Tensor, codes: Tensor, keys: Tensor, mixture: Mixture) -> Tensor:
    """From dL/dz_i to dL/d(k_i . a_i). The scores are computed anew: to keep them would cost as much as the gates."""
    if mixture.activation == "none":
        return by_score
    raw = torch.bmm(keys.unsqueeze(1), codes).squeeze(1)
    if mixture.activation == "tanh":
        return torch.ops.aten.tanh_backward(by_score, raw.tanh_())  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward(by_score, raw, 0)  # type: ignore[no-any-return]
