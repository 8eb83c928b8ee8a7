"""HAT-Adapter: hard attention to the task on the units of bottleneck adapters."""

from dataclasses import replace
from typing import Literal

from nacre.features.masked_step import Masked
from nacre.functional.bottleneck import Nonlinearity
from nacre.method import Method, method
from nacre.methods.adapter import adapter
from nacre.models.roles import Role
from nacre.modifiers.hat import hat as with_hat
from nacre.per_task import PerTask


@method
def hat_adapter(
    *,
    reduction: int = 16,
    nonlinearity: Nonlinearity = "gelu",
    slope: float = 400.0,
    sparsity: PerTask = 0.75,
    mask: Masked = "update",
    anneal: Literal["epoch", "task"] = "epoch",
    gates_by: Literal["optimizer", "sgd"] = "optimizer",
    gate_rate: float = 1.0,
    clamp: float = 6.0,
    binary: bool = False,
    roles: tuple[Role, ...] = ("output", "ffn_out"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Bottleneck adapters that all tasks share, with a near-binary gate on every unit for each task (HAT-Adapter).

    What earlier tasks' gates let through does not change any more. The task is given in training and at test, where its
    gates answer.

    Equations:
        h <- h + a_out (*) (U (a_hid (*) f(D h + b)) + c), with a = sigmoid(s e) for each of the two layers
        batch n of N in an epoch: s = 1/smax + (smax - 1/smax) (n - 1) / (N - 1); learned tasks: s = smax
        A_i = max over earlier tasks of a_i at smax
        loss = task loss + sparsity sum a (1 - A) / sum (1 - A), over the units of all layers
        gradient of U_ij times 1 - min(A_out,i, A_hid,j); of row i of D and of b_i times 1 - A_hid,i; of c_i times
        1 - A_out,i
        gradient of e times (smax / s) (cosh(s e) + 1) / (cosh(e) + 1), with s e cut off at 50; then e is clamped

    Args:
        reduction: d / m, see adapter.
        nonlinearity: f: 'gelu', 'relu' or 'silu' (swish).
        slope: smax.
        sparsity: lambda, the weight of the penalty on units that a task takes; a list gives one for each task.
        mask: 'update' multiplies gradients and the optimizer's step with the shares above, so that a unit in full use
            does not move by a bit; 'gradient' multiplies gradients only (released code): AdamW's momentum and weight
            decay still move what is used, and it undoes a constant factor.
        anneal: Over what s rises: each 'epoch', or the whole 'task'.
        gates_by: Who moves e: the 'optimizer' by the compensated gradient (released code of DAS), or 'sgd', plain
            descent along it, as first published.
        gate_rate: The gates' learning rate in multiples of the task's.
        clamp: e stays within this distance of 0.
        binary: Whether a learned task's gates are rounded to 0 and 1, so that nothing of it is forgotten at all.
        roles: Behind which linear maps the adapters stand, see adapter.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - An adapter is one map to the bottleneck and one back, with a gate behind each. The released code has two maps
          in each place, and masks the first by its own gates only.
        - e begins from a standard normal distribution, U with 0.
        - An epoch of a single batch has s = smax.
        - Gradients are clipped together after compensation, as in the released code of HAT.
        - A task that was never learned is answered by the newest gates.

    Sources:
        Serra et al. 2018 (arXiv 1801.01423), Eqs. 1 to 6, smax 400, lambda 0.75, clamp 6; on adapters: Ke et al. 2023
        (arXiv 2302.03241).
    """
    gated = with_hat(
        adapter(reduction=reduction, nonlinearity=nonlinearity, roles=roles, modules=modules),
        slope=slope,
        sparsity=sparsity,
        mask=mask,
        anneal=anneal,
        gates_by=gates_by,
        gate_rate=gate_rate,
        clamp=clamp,
        binary=binary,
    )
    return replace(gated, title="HAT-Adapter", sources=("arXiv 1801.01423", "arXiv 2302.03241"))
