"""AM-LoRA's mixture with a fixed budget of tasks: the gates first, then only the tasks with the largest ones.

No code is needed to know a gate: k_i . (A_i x) = c_i . x with c_i = A_i^T k_i, so that the gates of all t tasks cost
t d_in numbers a token instead of t r d_in. The softmax is exact, over all tasks (and the zero LoRA). Then

    delta = s sum over i in K of g_i B_i A_i x        K: the k tasks with the largest sum of g_i over the tokens

Tasks outside K give nothing, and their scores are constants: their gates keep their share of the softmax, but neither
their selectors nor the input get a gradient through them. What is computed is differentiated exactly, by the formulas
of `fused_gating`. All shapes depend on k only, and nothing waits for the device.

Not in any paper. What is left out of delta is at most sum over i outside K of g_i |s B_i A_i x| for a token.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from nacre.functional.fused_gating import (
    Frozen,
    Mixture,
    Saved,
    keys_of,
    run_mixture,
    softmaxed,
    without_zero,
)


def chosen_tasks(sums: Tensor, keep: int, *, with_newest: bool) -> Tensor:
    """K, the tasks with the largest gates, the largest first.

    Args:
        sums: Each task's gates summed over tokens, [t].
        keep: How many.
        with_newest: Whether the last task is one of them whatever its gates; it then comes first.

    Returns:
        Indices, [keep].
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
    """`fused_mixture` of the `keep` < t tasks that are chosen on these tokens.

    Args:
        x: As in `fused_mixture`, and so are all the others up to `undropped`.
        down: See `fused_mixture`.
        up: See `fused_mixture`.
        selector: See `fused_mixture`.
        zero_score: See `fused_mixture`.
        stacked_down: See `fused_mixture`.
        stacked_up: See `fused_mixture`.
        mixture: See `fused_mixture`.
        base: See `fused_mixture`.
        undropped: See `fused_mixture`.
        keep: k.
        with_newest: Whether the newest task is one of them. It must be where gradients are enabled, because it alone is
            trained.

    Returns:
        [..., d_out].
    """
    assert with_newest or not torch.is_grad_enabled()
    frozen = Frozen.with_newest((stacked_down, stacked_up), down, up, base)
    measure = functools.partial(_chosen_only, keep=keep, with_newest=with_newest)
    return run_mixture(x, down, up, selector, zero_score, frozen, mixture, undropped, measure)


def _chosen_only(
    x: Tensor,
    selector: Tensor,
    zero_score: Tensor | None,
    frozen: Frozen,
    mixture: Mixture,
    *,
    keep: int,
    with_newest: bool,
) -> tuple[Saved, Frozen]:
    """Gates of every task from c_i, and codes of the chosen tasks."""
    tasks = len(selector)
    downs, ups = (stack.view(tasks, -1, stack.shape[1]) for stack in (frozen.down, frozen.up))
    keys = keys_of(ups, selector, mixture)
    directions = torch.bmm(keys.unsqueeze(1), downs).squeeze(1)  # c_i: [t, d_in]
    rows = x.new_empty(tasks + mixture.zero_lora, len(x))
    torch.mm(directions, x.T, out=without_zero(rows, mixture))
    shares = softmaxed(rows, zero_score, mixture)
    gates = without_zero(shares, mixture)
    chosen = chosen_tasks(gates.sum(1), keep, with_newest=with_newest)
    kept = frozen.of_tasks(chosen, tasks)
    codes = torch.mm(kept.down, x.T).view(keep, -1, len(x))
    zero_gate = None if zero_score is None else shares[0].clone()  # a view would keep the others alive
    saved = Saved(x, selector, codes, gates.index_select(0, chosen), keys.index_select(0, chosen), zero_gate, chosen)
    return saved, kept
