"""`+copy_init`: a new task begins with a copy of the last task's upper layers."""

from typing import Literal

from nacre.method import Method, modifier
from nacre.parts.start import CopyStart


@modifier
def copy_init(method: Method, *, layers: int | Literal["all"] = 4) -> Method:
    """A new task's slot begins as a copy of the last task's slot in some layers, and as usual in the others.

    This is LB-CL's motivation experiment, for any method with a low-rank slot for each task.

    Equations:
        (A_t, B_t) = (A_{t-1}, B_{t-1}) in the chosen layers.

    Args:
        method: The method to modify.
        layers: How many, counted from the output down, of the decoder where there is one, otherwise of the only stack;
            'all': every site. The slides copy none, 4, 9 and all: 4 or 9 help both tasks, all ruin the first.

    Assumed:
        - Top layers are the decoder's; both factors are copied; AM-LoRA's selectors begin as usual.

    Sources:
        LB-CL (NeurIPS 2024), section 2 (motivation).
    """
    return method.with_start(CopyStart(layers=layers))
