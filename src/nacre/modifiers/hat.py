"""`+hat`: hard attention to the task on any method whose tasks share units."""

from dataclasses import replace
from typing import Literal

from nacre.adapters.gated_host import HOST_UNITS, GatedHost, GatedKind
from nacre.adapters.unit_gates import HardGates
from nacre.errors import RecipeError, SlotTaken
from nacre.features.masked_step import Masked
from nacre.method import Method, modifier
from nacre.parts.distillation import NO_ROUTING, Distillation
from nacre.parts.given_task import GivenTask
from nacre.parts.hard_attention import HardAttention, NewUnits, why_no_gates
from nacre.per_task import PerTask


@modifier
def hat(
    method: Method,
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
    """A near-binary gate on every unit that tasks share, one for each task; what earlier tasks use does not change.

    Units are the ranks of one LoRA that all tasks share (seq_lora), hidden units and outputs of bottleneck adapters
    (adapter, which becomes hat_adapter), or attention heads and feed-forward units of a host that is trained itself
    (seq_ft, which becomes hat). The task is given in training and at test, where its gates answer.

    Equations:
        LoRA: h = W x + s U (a (*) D x), with a = sigmoid(z e), z the slope; adapters and hosts as in hat_adapter, hat
        batch n of N in an epoch: z = 1/zmax + (zmax - 1/zmax) (n - 1) / (N - 1); learned tasks: z = zmax
        A_i = max over earlier tasks of a_i at zmax
        loss = task loss + sparsity sum a (1 - A) / sum (1 - A), over all units
        LoRA: gradient of row i of D and of column i of U times 1 - A_i
        gradient of e times (zmax / z) (cosh(z e) + 1) / (cosh(e) + 1), with z e cut off at 50; then e is clamped

    Args:
        method: The method to modify.
        units: Which of the units of a host that is trained itself are gated: attention 'heads', units of the
            feed-forward blocks ('ffn'), or both. Of adapters all are.
        slope: zmax, the sources' smax.
        sparsity: lambda, the weight of the penalty on units that a task takes; a list gives one for each task.
        mask: 'update' multiplies gradients and the optimizer's step with the shares above, so that a unit in full use
            does not move by a bit; 'gradient' multiplies gradients only (released code): AdamW's momentum and weight
            decay still move what is used, and it undoes a constant factor.
        anneal: Over what the slope rises: each 'epoch', or the whole 'task'.
        gates_by: Who moves e: the 'optimizer' by the compensated gradient, or 'sgd', plain descent along it, as first
            published.
        gate_rate: The gates' learning rate in multiples of the task's.
        clamp: e stays within this distance of 0.
        binary: Whether a learned task's gates are rounded to 0 and 1, so that nothing of it is forgotten at all.

    Assumed:
        - What is assumed for hat and hat_adapter.
        - HAT was not published for LoRA. A rank is a unit, of which its row of D and its column of U are the weights.
          What D reads and U writes is the frozen host's, which every task uses, so that the rank alone decides.
        - A stored row of an earlier task (replay) is learned under its own task's gates, and moves what they leave
          free.

    Note:
        A LoRA's rank is all that its tasks have to share out: take a larger one than for a single task.

    Sources:
        Serra et al. 2018 (arXiv 1801.01423), Eqs. 1 to 6, smax 400, lambda 0.75, clamp 6.
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"hat has nothing to share out in {method.display_name}, where no task is learned on top of an earlier "
            "one; it goes with methods that learn task after task, such as seq_ft, adapter or seq_lora."
        )
    if why_no_gates(method.adapter) is None:
        raise SlotTaken(f"{method.display_name} already has a gate on each unit for each task: leave out +hat.")
    if any(isinstance(term, Distillation) for term in method.batch_terms):
        raise RecipeError(f"hat cannot go with {method.display_name}: {NO_ROUTING}.")
    adapter = method.adapter.gated(HardGates(slope, binary, gate_rate))
    if adapter is None:
        raise RecipeError(
            f"hat needs units that all tasks share, and in {method.display_name} are none that could have gates: "
            "seq_ft has the host's own, adapter those of its bottlenecks, and seq_lora the ranks of its LoRA."
        )
    if isinstance(adapter, GatedHost):
        adapter = replace(adapter, units=units)
    elif units != HOST_UNITS:
        raise RecipeError(
            f"hat: units={', '.join(units)} chooses among the host's own units, and {method.display_name} trains an "
            "adapter, whose units all have gates."
        )
    gated = replace(method, adapter=adapter, name=f"{method.display_name}+hat")
    gated = gated.with_routing(GivenTask()).with_penalty(NewUnits(sparsity))
    return gated.with_gradient_rule(HardAttention(mask, anneal, gates_by, clamp))
