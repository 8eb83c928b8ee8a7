"""EWC: full fine-tuning, held near where earlier tasks left what they depend on."""

from dataclasses import replace
from typing import Literal

from nacre.method import Method, method
from nacre.methods.seq_ft import seq_ft
from nacre.modifiers.ewc import ewc as with_ewc
from nacre.per_task import PerTask


@method
def ewc(
    *,
    strength: PerTask = 400.0,
    mode: Literal["online", "separate"] = "online",
    decay: float = 1.0,
    samples: int = 1024,
    labels: Literal["gold", "sampled"] = "gold",
    normalize: bool = False,
) -> Method:
    """Elastic weight consolidation: full fine-tuning with a quadratic penalty on what earlier tasks depend on.

    All parameters are trained on each task in turn. There is no stored data and no task identity at test; two more
    numbers are kept for every parameter.

    Equations:
        loss = task loss + strength / 2 sum_j F_j (theta_j - theta*_j)^2, theta* the parameters after the last task
        after task t, F_j <- decay F_j + (1/m) sum over m of its rows of (d log p(y | x) / d theta_j)^2
        log p(y | x) is the sum over the target's tokens. The m gradients are those of single rows, without dropout and
        without the penalty. On the first task there is no penalty.

    Args:
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
        - Strength 400, the one of TRACE's released code, whose Fisher is estimated otherwise (from batch gradients
          while training). The strength, the number of rows and the mode behind the published scores of O-LoRA's and
          AM-LoRA's tables are not stated. It has to be searched; with AdamW a far too large one makes parameters
          oscillate.

    Sources:
        Kirkpatrick et al. 2017 (arXiv 1612.00796), Eq. 3; online form: Schwarz et al. 2018 (arXiv 1805.06370);
        AM-LoRA section 3.2 (EWC, on the entire model).
    """
    held = with_ewc(
        seq_ft(), strength=strength, mode=mode, decay=decay, samples=samples, labels=labels, normalize=normalize
    )
    return replace(held, title="EWC (elastic weight consolidation)", sources=("arXiv 1612.00796", "arXiv 1805.06370"))
