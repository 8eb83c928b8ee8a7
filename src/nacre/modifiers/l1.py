"""`+l1`: an L1 penalty on one group of the adapter's parameters."""

from nacre.method import Method, modifier
from nacre.parts.penalty import GroupL1
from nacre.per_task import PerTask


@modifier
def l1(method: Method, *, group: str = "selector", strength: PerTask = 1e-3) -> Method:
    """The absolute values of one parameter group are added to the loss, so that few of them stay large.

    Equations:
        loss = task loss + strength * sum over the group's entries of |w| (AM-LoRA Eq. 6 for its selectors).

    Args:
        method: The method to modify.
        group: The parameter group, by the name that a run's table of trainable parameters prints: selector (AM-LoRA),
            down, up, sigma (LB-CL), host.
        strength: lambda; a list gives one for each task.

    Sources:
        AM-LoRA (arXiv 2409.19611), section 2.4.
    """
    return method.with_penalty(GroupL1(group, strength))
