"""`+orthogonality`: O-LoRA's penalty on any method that keeps a LoRA for each task."""

from typing import Literal

from nacre.method import Method, modifier
from nacre.parts.orthogonality import Orthogonality
from nacre.per_task import PerTask


@modifier
def orthogonality(
    method: Method,
    *,
    strength: PerTask = 0.5,
    norm: Literal["absolute", "squared"] = "absolute",
    side: Literal["input", "output", "both"] = "input",
    reduce: Literal["sum", "mean"] = "sum",
) -> Method:
    """A new task's LoRA is pushed to use other directions than those of the earlier tasks: O-LoRA's penalty.

    Equations:
        loss = task loss + strength * sum over sites and earlier tasks i of sum |A_i A_t^T|.

    Args:
        method: The method to modify.
        strength: lambda_1 of O-LoRA; a list gives one for each task.
        norm: 'absolute' as released, 'squared' as in the paper's equation.
        side: 'input' compares the A's, as released, 'output' the B's, 'both' the two together.
        reduce: 'sum' over the matrices, as released, or their 'mean'.

    Sources:
        O-LoRA (arXiv 2310.14152), section 3; its code, src/uie_trainer_lora.py, lines 90 to 109.
    """
    return method.with_penalty(Orthogonality(strength, norm, side, reduce))
