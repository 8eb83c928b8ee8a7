"""`+orthogonal_gradient`: a new task moves in directions that earlier tasks' factors do not use."""

from typing import Literal

from nacre.functional.projection import Space
from nacre.method import Method, modifier
from nacre.parts.orthogonal_gradient import OrthogonalGradient


@modifier
def orthogonal_gradient(
    method: Method,
    *,
    space: Space = "union",
    on: Literal["gradient", "update", "both"] = "gradient",
    sigma: Literal["none", "flat"] = "none",
    energy: float = 1.0,
) -> Method:
    """A new task is trained in directions that earlier tasks' factors do not use.

    What lies in the span of earlier tasks' factors is removed from the gradients, or from the changes. This is LB-CL's
    second stage for any method with a low-rank slot for each task.

    Equations:
        grad A <- grad A (I - Q_A Q_A^T), grad B <- (I - Q_B Q_B^T) grad B; Q_A: orthonormal basis of all
        earlier A_k's rows, Q_B: of all earlier B_k's columns, site by site.

    Args:
        method: The method to modify.
        space: 'union': orthogonal to the span of all earlier tasks; 'sum': minus every earlier task's own
            projection, the slide's formula to the letter, which reverses what lies in the spans of two tasks;
            'vectors': minus the projection on every earlier vector.
        on: 'gradient': before the optimizer's step, which AdamW turns back into the span in part; 'update': the
            parameter's change since the task's start, after each step, exact for every optimizer; 'both'.
        sigma: 'none': an SVD adapter's sigma is trained freely; 'flat': outside the span of earlier sigmas.
        energy: With 'union', only as many directions of each earlier task's factor are closed, the largest first
            and beside those closed already, as it takes to hold this share of its squared norm; 1: all. Less leaves
            later tasks more free dimensions; of each earlier factor up to the rest is open to change.

    Assumed:
        - proj is on the union of the old spans, for each factor by itself, on the gradient; sigma is left free.

    Note:
        Each task closes up to rank directions of each factor. How many are left is reported when a task begins, with a
        warning where the next one may find fewer than rank, and an error where a task finds none.

    Sources:
        LB-CL (NeurIPS 2024), section 3.2; energy: the criterion of Gradient Projection Memory (arXiv 2103.09762), there
        for activations.
    """
    return method.with_gradient_rule(OrthogonalGradient(space=space, on=on, sigma=sigma, energy=energy))
