"""``+ewc``: elastic weight consolidation on any method that trains the same parameters throughout."""

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

    Equations: loss = task loss + strength / 2 sum_j F_j (theta_j - theta*_j)^2 over the trained parameters; F_j is the
    mean over a task's rows of the squared gradient of log p(y | x), summed over the tasks.

    strength: lambda; a list gives one for each task. mode: 'online' keeps one F, and theta* after the last task;
    'separate' an F and a theta* for each task. decay: gamma, the share of the old F that stays ('online' only).
    samples: at most so many rows of a task. labels: 'gold' takes the rows' own targets, 'sampled' draws each token from
    the model (teacher-forced). normalize: each task's F is divided by the mean of its entries.

    Note: on a LoRA the Fisher is that of its two factors, not of their product.
    Assumed: strength 400, as in the method ewc.

    Sources: Kirkpatrick et al. 2017 (arXiv 1612.00796), Eq. 3; Schwarz et al. 2018 (arXiv 1805.06370).
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"ewc has nothing to hold in {method.called}, where no task is learnt on top of an earlier one; it goes "
            "with seq_ft or seq_lora."
        )
    return method.with_penalty(ElasticWeights(strength, mode, decay, samples, labels, normalize))
