"""`+der`: dark experience replay on any method that learns task after task."""

from typing import Literal

from nacre.errors import RecipeError
from nacre.method import Method, modifier
from nacre.parts.dark_experience import DarkLogits, StoredLabels
from nacre.parts.reservoir import Reservoir
from nacre.per_task import PerTask


@modifier
def der(
    method: Method,
    *,
    alpha: PerTask = 0.3,
    beta: PerTask = 0.5,
    capacity: int = 500,
    rows: int = 16,
    distance: Literal["mean", "sum"] = "mean",
    top_k: int | None = None,
) -> Method:
    """Rows of the stream are stored with the logits that they had when they passed; both are replayed in every step.

    Equations:
        loss = task loss + alpha ||z(x') - z'||^2 + beta CE(x'', y''), (x', z') and (x'', y'') two independent draws
        of `rows` rows from the reservoir, which holds each row that ever passed with the same probability

    Args:
        method: The method to modify.
        alpha: Weight of the stored logits; a list gives one for each task. 0 leaves experience replay (ER).
        beta: Weight of the stored labels, likewise; 0 leaves DER.
        capacity: Rows in the reservoir.
        rows: Rows of each draw.
        distance: 'mean' over the logits of a token; 'sum' over them.
        top_k: Logits kept of each target token, the largest ones, and the logarithm of the others' summed exponentials;
            None keeps all.

    Assumed:
        - What is assumed for der_pp.

    Sources:
        Buzzega et al. 2020 (arXiv 2004.07211), Eq. 6.
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"der has nothing to bring back in {method.display_name}, where no task is learned on top of an earlier "
            "one; it goes with methods that learn task after task, such as seq_ft or seq_lora."
        )
    stored = method.with_memory(Reservoir(capacity, top_k))
    return stored.with_penalty(DarkLogits(alpha, rows, distance)).with_penalty(StoredLabels(beta, rows))
