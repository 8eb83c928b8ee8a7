"""`+update_l1`: N-LoRA's penalty on any method that trains a LoRA."""

from typing import Literal

from nacre.method import Method, modifier
from nacre.parts.update_l1 import UpdateL1
from nacre.per_task import PerTask


@modifier
def update_l1(method: Method, *, strength: PerTask = 0.4, form: Literal["update", "released"] = "update") -> Method:
    """The absolute entries of a new task's update are added to the loss, so that few of them are large: N-LoRA's term.

    `+l1` penalizes the entries of a parameter group, this one those of the factors' product.

    Equations:
        loss = task loss + strength * sum over sites of sum |B_t A_t|, without the scale s.

    Args:
        method: The method to modify.
        strength: lambda; a list gives one for each task.
        form: 'update' is B A, the update itself, as in the paper; 'released' is A B, an r x r matrix that says nothing
            about the update's entries, and that exists only where a map's input and output have one size.

    Assumed:
        - It counts on the first task, too: with its update later ones may collide.
        - Where a method has one LoRA for all tasks, it is that whole update.

    Sources:
        N-LoRA (arXiv 2410.10179); its code, src/uie_trainer_lora.py, lines 90 to 104, for the other form.
    """
    return method.with_penalty(UpdateL1(strength, form))
