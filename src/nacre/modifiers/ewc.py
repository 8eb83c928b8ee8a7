"""`+ewc`: elastic weight consolidation on any method that trains the same parameters throughout."""

from typing import Literal

from nacre.errors import RecipeError
from nacre.method import Method, modifier
from nacre.parts.elastic_weights import ElasticWeights
from nacre.per_task import PerTask


@modifier
def ewc(
    method: Method,
    *,
    strength: PerTask = 400.0,
    mode: Literal["online", "separate"] = "online",
    decay: float = 1.0,
    samples: int = 1024,
    labels: Literal["gold", "sampled"] = "gold",
    normalize: bool = False,
) -> Method:
    """Parameters that earlier tasks depend on are held near where those tasks left them.

    Equations:
        loss = task loss + strength / 2 sum_j F_j (theta_j - theta*_j)^2 over the trained parameters
        F_j = sum over earlier tasks of the mean over the task's rows of (d log p(y | x) / d theta_j)^2

    Args:
        method: The method to modify.
        strength: lambda; a list gives one for each task.
        mode: 'online' keeps one F, and theta* after the last task; 'separate' keeps F and theta* of each task and
            sums the penalties, as first published.
        decay: gamma, the share of the old F that stays ('online' only).
        samples: Rows m of a task at most, drawn at random.
        labels: 'gold' takes the rows' own targets (the empirical Fisher); 'sampled' draws each target token from
            what the model predicts after the target's own tokens before it (teacher-forced: no sampled token is
            ever read).
        normalize: Whether each task's F is divided by the mean of its entries, so that lambda does not depend on their
            size.

    Assumed:
        - Strength 400, as in the method ewc.

    Note:
        On a LoRA the Fisher is that of its two factors, not of their product.

    Sources:
        Kirkpatrick et al. 2017 (arXiv 1612.00796), Eq. 3; Schwarz et al. 2018 (arXiv 1805.06370).
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"ewc has nothing to hold in {method.display_name}, where no task is learned on top of an earlier one; it "
            "goes with seq_ft or seq_lora."
        )
    return method.with_penalty(ElasticWeights(strength, mode, decay, samples, labels, normalize))
