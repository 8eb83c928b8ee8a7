"""HAT: hard attention to the task on the host's own units."""

from dataclasses import replace
from typing import Literal

from nacre.adapters.gated_host import HOST_UNITS, GatedKind
from nacre.features.masked_step import Masked
from nacre.method import Method, method
from nacre.methods.seq_ft import seq_ft
from nacre.modifiers.hat import hat as with_hat
from nacre.per_task import PerTask


@method
def hat(
    *,
    units: tuple[GatedKind, ...] = HOST_UNITS,
    slope: float = 400.0,
    sparsity: PerTask = 0.75,
    mask: Masked = "update",
    anneal: Literal["epoch", "task"] = "epoch",
    gates_by: Literal["optimizer", "sgd"] = "optimizer",
    gate_rate: float = 1.0,
    clamp: float = 6.0,
    binary: bool = False,
) -> Method:
    """Full fine-tuning with a near-binary gate on every attention head and feed-forward unit for each task (HAT).

    The weights between units that earlier tasks' gates let through do not change any more. The task is given in
    training and at test, where its gates answer.

    Equations:
        x <- a (*) x, with a = sigmoid(s e), where attention's output map reads its heads and the feed-forward block's
        last map its units
        batch n of N in an epoch: s = 1/smax + (smax - 1/smax) (n - 1) / (N - 1); learned tasks: s = smax
        A_i = max over earlier tasks of a_i at smax
        loss = task loss + sparsity sum a (1 - A) / sum (1 - A), over all units
        gradient of a weight from unit j to unit i times 1 - min(A_i, A_j), of a bias times 1 - A_i
        gradient of e times (smax / s) (cosh(s e) + 1) / (cosh(e) + 1), with s e cut off at 50; then e is clamped

    Args:
        units: What is gated: attention 'heads', units of the feed-forward blocks ('ffn'), or both.
        slope: smax.
        sparsity: lambda, the weight of the penalty on units that a task takes; a list gives one for each task.
        mask: 'update' multiplies gradients and the optimizer's step with the shares above, so that a unit in full use
            does not move by a bit; 'gradient' multiplies gradients only (released code): AdamW's momentum and weight
            decay still move what is used, and it undoes a constant factor.
        anneal: Over what s rises: each 'epoch', or the whole 'task'.
        gates_by: Who moves e: the 'optimizer' by the compensated gradient, or 'sgd', plain descent along it, as first
            published.
        gate_rate: The gates' learning rate in multiples of the task's.
        clamp: e stays within this distance of 0.
        binary: Whether a learned task's gates are rounded to 0 and 1, so that nothing of it is forgotten at all.

    Assumed:
        - HAT was published for networks without attention. A head is one unit, of which its rows of query, key and
          value and its columns of the output map are the weights; a key or value that several heads share is used if
          one of them is.
        - What all units share (the width between blocks) is used by every task. So embeddings, norms, the output
          layer, and biases behind a block are trained on the first task only, and the other end of a weight decides.
        - e begins from a standard normal distribution.
        - An epoch of a single batch has s = smax.
        - Gradients are clipped together after compensation, as in the released code.
        - A task that was never learned is answered by the newest gates.

    Sources:
        Serra et al. 2018 (arXiv 1801.01423), Eqs. 1 to 6, smax 400, lambda 0.75, clamp 6.
    """
    gated = with_hat(
        seq_ft(),
        units=units,
        slope=slope,
        sparsity=sparsity,
        mask=mask,
        anneal=anneal,
        gates_by=gates_by,
        gate_rate=gate_rate,
        clamp=clamp,
        binary=binary,
    )
    return replace(gated, title="HAT (hard attention to the task)", sources=("arXiv 1801.01423",))
