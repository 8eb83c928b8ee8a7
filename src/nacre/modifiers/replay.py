"""`+replay`: a few rows of every past task are mixed into each new one."""

from nacre.errors import RecipeError
from nacre.method import Method, modifier
from nacre.parts.rehearsal import Rehearsal


@modifier
def replay(method: Method, *, fraction: float = 0.02, per_task: int | None = None) -> Method:
    """Some rows of every task are kept and learned again with each later task.

    Equations:
        Task t is learned from D_t + M_1 + ... + M_{t-1}, shuffled together.
        M_i a random sample of D_i without replacement, drawn once, |M_i| = max(1, floor(fraction |D_i|))

    Args:
        method: The method to modify.
        fraction: Share of a task's training rows that is kept; 0 keeps none.
        per_task: Number of rows kept of each task, instead of a share.

    Sources:
        MIGU (arXiv 2406.17245), section 4.1 (2 % of past tasks).
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"replay has nothing to bring back in {method.display_name}, where no task is learned on top of an earlier "
            "one; it goes with methods that learn task after task, such as seq_ft or seq_lora."
        )
    return method.with_memory(Rehearsal(fraction, per_task))
