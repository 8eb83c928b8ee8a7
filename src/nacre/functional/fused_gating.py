"""AM-LoRA's mixture with a hand-written backward pass.

It is the same function as `gating`, at little more than the cost of its four large products.

Kept for the backward pass are the input, the codes a_i [t r] and the gates [t] of every token; no feature of a task
is. Everything of the size tasks x tokens lies with its tokens last, so that sums over ranks and tasks run along long
rows. Notation, for one token with u_i = B_i^T (dL/d delta); every gradient below is to be multiplied by s:

    delta = s sum_i g_i B_i a_i      a_i = A_i x      z_i = phi(k_i . a_i)      k_i = c B_i^T w_i      c = s or 1
    dL/dg_i = u_i . a_i              dL/dz_i = g_i (dL/dg_i - m)                m = sum_j g_j dL/dg_j
    dL/da_i = g_i u_i + phi'(.) dL/dz_i k_i            dL/dk_i = sum over tokens of phi'(.) dL/dz_i a_i
    dL/dw_i = c B_i dL/dk_i          dL/dz_0 = -g_0 m
    dL/dA_t = dL/da_t x^T            dL/dB_t = dL/ddelta (g_t a_t)^T + c w_t (dL/dk_t)^T

The second term of dL/dB_t is the way through the selector's key. Scales are given to products (`alpha`) rather than
multiplied in, because every operation on its own costs a launch on an accelerator and a pass over memory elsewhere.

Products are computed in the type of x and of the stacks, which may be a half precision. Scores, the softmax and its
gradient are in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nacre.functional.gating import Activation, not_in_half

MixtureGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""By x, what the base reads instead, A_t, B_t, the selectors and z_0; None where a gradient is not needed."""


@dataclass(frozen=True)
class Mixture:
    """Settings of the mixture; see `gating`.

    Attributes:
        scale: s.
        key_scale: c, the scale of the selectors' keys: s, or 1.
        zero_lora: Whether the zero LoRA takes part.
        activation: phi.
        offset: What is subtracted from the newest task's score.
    """

    scale: float
    key_scale: float
    zero_lora: bool
    activation: Activation = "none"
    offset: float = 0.0


@dataclass(frozen=True)
class Frozen:
    """What a mixture reads and no gradient reaches.

    Attributes:
        down: A_i of all tasks, the newest's last, [t r, d_in].
        up: B_i^T of all tasks, the newest's last, [t r, d_out].
        weight: The base's weight [d_out, d_in]; None if the base is computed elsewhere.
        bias: The base's bias [d_out], or None.
    """

    down: Tensor
    up: Tensor
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    @torch.no_grad()
    def with_newest(
        cls, stacks: tuple[Tensor, Tensor], down: Tensor, up: Tensor, base: tuple[Tensor, Tensor | None] | None
    ) -> Frozen:
        """The stacks, with the newest task written into their last rows in place.

        Args:
            stacks: All tasks' A_i [t r, d_in] and B_i^T [t r, d_out].
            down: A_t [r, d_in].
            up: B_t [d_out, r].
            base: Weight and bias of the base, or None.
        """
        stacks[0][-len(down) :].copy_(down)
        stacks[1][-len(down) :].copy_(up.T)
        return cls(*stacks, *(base or (None, None)))

    def of_tasks(self, chosen: Tensor | None, tasks: int) -> Frozen:
        """The same of the chosen tasks only, in their order.

        Args:
            chosen: Indices [k] among `tasks`; None for all of them.
            tasks: t.
        """
        if chosen is None:
            return self
        down, up = (
            stack.view(tasks, -1, stack.shape[1]).index_select(0, chosen).flatten(0, 1)
            for stack in (self.down, self.up)
        )  # [k r, d]
        return Frozen(down, up, self.weight, self.bias)


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass, for T tokens and k computed tasks.

    Attributes:
        x: Input of the LoRAs, [T, d_in].
        selector: w_i of all tasks, the newest's last, [t, d_out].
        codes: a_i, [k, r, T].
        gates: g_i, [k, T], in float32 at least.
        keys: k_i, [k, r].
        zero_gate: g_0 [T]; None where z_0 is not learned.
        chosen: Which tasks are computed, [k]: the newest first. None: all of them, the newest last.
    """

    x: Tensor
    selector: Tensor
    codes: Tensor
    gates: Tensor
    keys: Tensor
    zero_gate: Tensor | None
    chosen: Tensor | None


Measure = Callable[[Tensor, Tensor, Tensor | None, Frozen, Mixture], tuple[Saved, Frozen]]
"""From x [T, d_in], selector [t, d_out], zero_score [1] or None, frozen tensors and settings to codes and gates of the
computed tasks, and what is frozen of these."""


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
    """delta of all tasks, or W x + bias + delta where the frozen base is given.

    Args:
        x: Input of the LoRAs, [..., d_in], in the type of products.
        down: A_t [r, d_in] of the newest task, which alone is trained. It may be of a longer type, and so may `up`,
            `selector` and `zero_score`.
        up: B_t [d_out, r] of the newest task.
        selector: w_i of all tasks, [t, d_out].
        zero_score: z_0 [1]; None for 0, or without a zero LoRA, as `mixture` says.
        stacked_down: All tasks' A_i [t r, d_in], the newest's last. The last r rows are written here, so that no large
            tensor is put together in a step. In x's type.
        stacked_up: All tasks' B_i^T [t r, d_out], likewise.
        mixture: Settings.
        base: W [d_out, d_in] and bias [d_out], frozen, in x's type.
        undropped: What the base reads, [..., d_in], if that is not x.

    Returns:
        [..., d_out].
    """
    frozen = Frozen.with_newest((stacked_down, stacked_up), down, up, base)
    return run_mixture(x, down, up, selector, zero_score, frozen, mixture, undropped, _all_tasks)


def run_mixture(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    selector: Tensor,
    zero_score: Tensor | None,
    frozen: Frozen,
    mixture: Mixture,
    undropped: Tensor | None,
    measure: Measure,
) -> Tensor:
    """The mixture of the tasks that `measure` computes, with gradients where they are enabled.

    Args:
        x: As in `fused_mixture`, and so are `down`, `up`, `selector`, `zero_score`, `mixture` and `undropped`.
        down: See above.
        up: See above.
        selector: See above.
        zero_score: See above.
        frozen: The stacks, which hold the newest task already, and the base.
        mixture: See above.
        undropped: See above.
        measure: Computes codes and gates.

    Returns:
        [..., d_out].
    """
    flat = x.reshape(-1, x.shape[-1])
    read = None if undropped is None else undropped.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        output: Tensor = _FusedMixture.apply(  # type: ignore[no-untyped-call]
            flat, read, down, up, selector, zero_score, frozen, mixture, measure
        )
    else:
        saved, kept = measure(flat, selector, zero_score, frozen, mixture)
        mixed = saved.codes.mul_(as_factor(saved.gates, saved.codes))
        output = mixed_output(flat if read is None else read, mixed, kept, mixture)
    return output.view(*x.shape[:-1], up.shape[0])


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
        measure: Measure,
    ) -> Tensor:
        saved, kept = measure(x, selector, zero_score, frozen, mixture)
        # The newest tensors are saved so that autograd complains if a step was taken before the backward pass. Of
        # chosen tasks the codes and gates are, not the matrices: choosing these anew costs less than keeping them.
        ctx.save_for_backward(down, up, *saved)
        ctx.frozen, ctx.mixture, ctx.apart = frozen, mixture, undropped is not None
        mixed = saved.codes * as_factor(saved.gates, saved.codes)
        return mixed_output(x if undropped is None else undropped, mixed, kept, mixture)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # [T, d_out]
        saved = Saved(*ctx.saved_tensors[2:])
        kept = ctx.frozen.of_tasks(saved.chosen, len(saved.selector))
        slopes = gradients(ctx.needs_input_grad, gradient, saved, kept, ctx.mixture, apart=ctx.apart)
        return *slopes, None, None, None


def _all_tasks(
    x: Tensor, selector: Tensor, zero_score: Tensor | None, frozen: Frozen, mixture: Mixture
) -> tuple[Saved, Frozen]:
    """Codes and gates of every task."""
    tasks = len(selector)
    keys = keys_of(frozen.up.view(tasks, -1, frozen.up.shape[1]), selector, mixture)
    codes = torch.mm(frozen.down, x.T).view(tasks, -1, len(x))
    rows = x.new_empty(tasks + mixture.zero_lora, len(x))
    torch.bmm(keys.unsqueeze(1), codes, out=without_zero(rows, mixture).unsqueeze(1))
    shares = softmaxed(rows, zero_score, mixture)
    zero_gate = None if zero_score is None else shares[0]
    return Saved(x, selector, codes, without_zero(shares, mixture), keys, zero_gate, None), frozen


def keys_of(ups: Tensor, selector: Tensor, mixture: Mixture) -> Tensor:
    """k_i = c B_i^T w_i.

    Args:
        ups: B_i^T, [t, r, d_out].
        selector: w_i, [t, d_out].
        mixture: Holds c.

    Returns:
        [t, r].
    """
    unread = ups[:, :, :1]  # beta = 0: only its shape counts
    read = selector.to(ups.dtype).unsqueeze(2)
    return torch.baddbmm(unread, ups, read, beta=0, alpha=mixture.key_scale).squeeze(2)


def without_zero(rows: Tensor, mixture: Mixture) -> Tensor:
    """The tasks' own rows [t, T]: all, or, with a zero LoRA, which is row 0, those after it. A view."""
    return rows[1:] if mixture.zero_lora else rows


def softmaxed(rows: Tensor, zero_score: Tensor | None, mixture: Mixture) -> Tensor:
    """Gates from scores.

    Args:
        rows: k_i . a_i in the tasks' own rows of [t, T]; with a zero LoRA of [t + 1, T], where row 0 is not read. They
            are overwritten.
        zero_score: z_0 [1]; None for 0.
        mixture: Settings.

    Returns:
        Gates in the same rows, in float32 at least; the zero LoRA's, if any, is row 0.
    """
    rows = not_in_half(rows)
    if mixture.zero_lora:
        rows[0].copy_(zero_score) if zero_score is not None else rows[0].zero_()
    scores = without_zero(rows, mixture)
    if mixture.activation == "tanh":
        scores.tanh_()
    elif mixture.activation == "relu":
        scores.relu_()
    if mixture.offset:
        scores[-1].sub_(mixture.offset)
    return rows.softmax(0)


def as_factor(of_tasks: Tensor, codes: Tensor) -> Tensor:
    """What has one number a task and token [k, T], to be multiplied with codes [k, r, T]: [k, 1, T], in their type."""
    return of_tasks.to(codes.dtype).unsqueeze(1)


def mixed_output(x: Tensor, mixed: Tensor, frozen: Frozen, mixture: Mixture) -> Tensor:
    """delta, or the base's output with delta added to it.

    Args:
        x: What the base reads, [T, d_in].
        mixed: g_i a_i, [k, r, T].
        frozen: Of the same k tasks.
        mixture: Settings.

    Returns:
        [T, d_out].
    """
    flat = mixed.flatten(0, 1).T
    if frozen.weight is None:
        return torch.addmm(frozen.up[:1], flat, frozen.up, beta=0, alpha=mixture.scale)  # beta = 0: up[:1] is not read
    return F.linear(x, frozen.weight, frozen.bias).addmm_(flat, frozen.up, alpha=mixture.scale)


def gradients(
    needs: tuple[bool, ...], gradient: Tensor, saved: Saved, frozen: Frozen, mixture: Mixture, *, apart: bool
) -> MixtureGradients:
    """The gradients that the module's docstring states, for k computed tasks.

    Args:
        needs: Which of them are needed.
        gradient: dL/d output, [T, d_out].
        saved: What the forward pass left.
        frozen: Of the same k tasks.
        mixture: Settings.
        apart: Whether the base read something else than x.

    Returns:
        Each in the shape of its tensor; selectors of tasks that were not computed get 0.
    """
    down, up, weight = frozen.down, frozen.up, frozen.weight
    x, selector, codes, gates, keys, zero_gate, chosen = saved
    newest = -1 if chosen is None else 0
    tasks, rank = keys.shape
    scale = mixture.scale
    reached = torch.mm(up, gradient.T).view(tasks, rank, -1)  # u_i: [k, r, T]
    by_gate = (reached * codes).sum(1, dtype=gates.dtype)  # dL/dg_i: [k, T]
    # g_i (dL/dg_i - m) in one pass; the gates given need not sum to 1.
    by_score = torch._softmax_backward_data(by_gate, gates, 0, gates.dtype)
    by_raw = _through_activation(by_score, codes, keys, mixture)
    by_keys = torch.bmm(codes, by_raw.to(codes.dtype).unsqueeze(2)).squeeze(2)  # [k, r]
    # In place: dL/da_i takes the place of u_i.
    by_codes = reached.mul_(as_factor(gates, codes)).addcmul_(keys.unsqueeze(2), as_factor(by_raw, codes))

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
        mixed = codes[newest] * gates[newest].to(codes.dtype)
        transposed = torch.addmm(up[:1], mixed, gradient, beta=0, alpha=scale)
        selected = selector[-1:].to(codes.dtype)
        transposed.addmm_(by_keys[newest].unsqueeze(1), selected, alpha=scale * mixture.key_scale)
        by_up = transposed.T.contiguous()
    if needs[4]:
        ups = up.view(tasks, rank, -1)
        by_selector = torch.baddbmm(
            ups[:, :1], by_keys.unsqueeze(1), ups, beta=0, alpha=scale * mixture.key_scale
        ).squeeze(1)
        if chosen is not None:
            by_selector = torch.zeros_like(selector).index_copy_(0, chosen, by_selector.to(selector.dtype))
    if needs[5] and zero_gate is not None:
        mean = (gates * by_gate).sum(0)  # m: [T]
        by_zero = torch.dot(zero_gate, mean).mul_(-scale).view(1)
    return by_x, by_undropped, by_down, by_up, by_selector, by_zero


def _through_activation(by_score: Tensor, codes: Tensor, keys: Tensor, mixture: Mixture) -> Tensor:
    """From dL/dz_i to dL/d(k_i . a_i). The scores are computed anew: to keep them would cost as much as the gates."""
    if mixture.activation == "none":
        return by_score
    raw = torch.bmm(keys.unsqueeze(1), codes).squeeze(1).to(by_score.dtype)
    if mixture.activation == "tanh":
        return torch.ops.aten.tanh_backward(by_score, raw.tanh_())  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward(by_score, raw, 0)  # type: ignore[no-any-return]
