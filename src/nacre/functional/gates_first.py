"""AM-LoRA's mixture with a fixed budget of tasks: the gates first, then only the tasks with the largest ones.

No code is needed to know a gate: k_i . (A_i x) = c_i . x with c_i = A_i^T k_i, so that the gates of all t tasks cost
t d_in numbers a token instead of t r d_in. The softmax is exact, over all tasks (and the zero LoRA). Then

    delta = s sum over i in K of g_i B_i A_i x        K: the k tasks with the largest sum of g_i over the tokens

Tasks outside K give nothing, and their scores are constants: their gates keep their share of the softmax, but neither
their selectors nor the input get a gradient through them. What is computed is differentiated exactly, by the formulas
of ``fused_gating``. All shapes depend on k only, and nothing waits for the device.

Not in any paper. What is left out of delta is at most sum over i outside K of g_i |s B_i A_i x| for a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nacre.functional.fused_gating import (
    Frozen,
    Mixture,
    combined,
    gradients,
    keys_of,
    score_rows,
    softmaxed,
    without_zero,
)


def chosen_tasks(sums: Tensor, keep: int, *, with_newest: bool) -> Tensor:
    """K, the indices of the keep largest, the largest first: sums [t], each task's gates summed over tokens -> [keep].

    with_newest: the last task is one of them, whatever its gates, and comes first.
    """
    if with_newest:
        sums = sums.clone()
        sums[-1].fill_(torch.inf)
    return sums.topk(keep).indices


def fused_gates_first(
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
    *,
    keep: int,
    with_newest: bool,
) -> Tensor:
    """As ``fused_mixture``, of ``keep`` < t tasks chosen on these tokens. Where gradients are wanted, the newest task
    must be one of them (``with_newest``), because it alone is trained."""
    assert with_newest or not torch.is_grad_enabled()
    frozen = Frozen.with_newest((stacked_down, stacked_up), down, up, base)
    flat = x.reshape(-1, x.shape[-1])
    read = None if undropped is None else undropped.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        found: Tensor = _FusedGatesFirst.apply(  # type: ignore[no-untyped-call]
            flat, read, down, up, selector, zero_score, frozen, mixture, keep
        )
    else:
        codes, _, gates, _, ups, _ = _computed(flat, selector, zero_score, frozen, mixture, keep, with_newest)
        found = combined(flat if read is None else read, codes.mul_(gates.unsqueeze(1)), ups, frozen, mixture)
    return found.view(*x.shape[:-1], up.shape[0])


class _FusedGatesFirst(torch.autograd.Function):
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
        keep: int,
    ) -> Tensor:
        codes, keys, gates, chosen, ups, zero_gate = _computed(
            x, selector, zero_score, frozen, mixture, keep, with_newest=True
        )
        # Codes and gates of the chosen, not their matrices: choosing these anew costs less than keeping them.
        ctx.save_for_backward(x, down, up, selector, codes, gates, keys, chosen, zero_gate)
        ctx.frozen, ctx.mixture, ctx.apart = frozen, mixture, undropped is not None
        return combined(x if undropped is None else undropped, codes * gates.unsqueeze(1), ups, frozen, mixture)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # [T, d_out]
        x, _, _, selector, codes, gates, keys, chosen, zero_gate = ctx.saved_tensors
        frozen: Frozen = ctx.frozen
        downs, ups = (_rows(stack, len(selector), chosen) for stack in (frozen.down, frozen.up))
        kept = Frozen(downs, ups, frozen.weight, frozen.bias)
        found = gradients(
            ctx.needs_input_grad, gradient, x, codes, gates, zero_gate, keys, selector, kept, ctx.mixture,
            newest=0, apart=ctx.apart
        )  # fmt: skip
        by_x, by_undropped, by_down, by_up, by_chosen, by_zero = found
        by_selector = None
        if by_chosen is not None:
            by_selector = torch.zeros_like(selector).index_copy_(0, chosen, by_chosen)
        return by_x, by_undropped, by_down, by_up, by_selector, by_zero, None, None, None


def _computed(
    x: Tensor,
    selector: Tensor,
    zero_score: Tensor | None,
    frozen: Frozen,
    mixture: Mixture,
    keep: int,
    with_newest: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Of the chosen k tasks: codes [k, r, T], keys [k, r], gates [k, T], their indices [k] and B_i^T [k r, d_out];
    and the gate of a learned zero LoRA [T]."""
    tasks = len(selector)
    downs, ups = (stack.view(tasks, -1, stack.shape[1]) for stack in (frozen.down, frozen.up))
    keys = keys_of(ups, selector, mixture)
    directions = torch.bmm(keys.unsqueeze(1), downs).squeeze(1)  # c_i: [t, d_in]
    rows = score_rows(tasks, x, zero_score, mixture)
    torch.mm(directions, x.T, out=without_zero(rows, mixture))
    shares = softmaxed(rows, mixture)
    gates = without_zero(shares, mixture)
    chosen = chosen_tasks(gates.sum(1), keep, with_newest=with_newest)
    codes = torch.mm(_rows(frozen.down, tasks, chosen), x.T).view(keep, -1, len(x))
    zero_gate = None if zero_score is None else shares[0].clone()  # a view would keep the others alive
    return (
        codes,
        keys.index_select(0, chosen),
        gates.index_select(0, chosen),
        chosen,
        _rows(frozen.up, tasks, chosen),
        zero_gate,
    )


def _rows(stack: Tensor, tasks: int, chosen: Tensor) -> Tensor:
    """The chosen tasks' rows of a stack [t r, d] -> [k r, d]."""
    return stack.view(tasks, -1, stack.shape[1]).index_select(0, chosen).flatten(0, 1)
