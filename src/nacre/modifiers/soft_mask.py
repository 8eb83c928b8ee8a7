"""`+soft_mask`: DAS's soft masks on any method that trains the host's own weights task after task."""

from typing import Literal

from nacre.errors import RecipeError
from nacre.method import Method, modifier
from nacre.parts.soft_mask import SoftMask


@modifier
def soft_mask(
    method: Method, *, mask: Literal["gradient", "update"] = "gradient", importance_rows: int = 10_000
) -> Method:
    """Units that matter for general knowledge and for earlier tasks are trained less. No row is stored.

    Equations:
        grad of a unit's incoming weights and bias <- (1 - I_u) grad, I_u as in the method das.

    Args:
        method: The method to modify.
        mask: 'gradient' masks what the optimizer reads, 'update' what it changes.
        importance_rows: Rows at most in which importances are measured, drawn at random.

    Assumed:
        - What is assumed for das, of which this is a part: its contrast is left out.

    Sources:
        DAS (arXiv 2302.03241), section 3.
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"soft_mask has nothing to spare in {method.display_name}, where no task is learned on top of an earlier "
            "one; it goes with methods that train the host's weights task after task, such as seq_ft."
        )
    return method.with_gradient_rule(SoftMask(mask, importance_rows))
