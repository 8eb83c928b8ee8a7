"""`+warm_start`: a new task begins where the nearest earlier ones ended, if its validation rows say so."""

from typing import Literal

from nacre.functional.gaussian_evidence import Along
from nacre.method import Method, modifier
from nacre.models.pooled_states import Layer
from nacre.parts.evidence_sums import SumsSettings, Views
from nacre.parts.warm_start import WarmStart


@modifier
def warm_start(
    method: Method,
    *,
    begin_with: Literal["held_out", "fresh", "nearest", "mean"] = "held_out",
    nearest: int = 3,
    held_out_rows: int = 64,
    seed_samples: int = 8,
    views: Views = "both",
    layer: Layer = -1,
    ridge: float = 0.3,
    along: Along = "diagonal",
) -> Method:
    """A new task's slot begins afresh, as a copy of the nearest task's, or as an average of the nearest ones'.

    Equations:
        distance(i, j) = sum over views v of (m_i - m_j)^T S_v^-1 (m_i - m_j), m the means of the tasks' rows, S_v as in
            +evidence
        mean: triplet k = sum over the nearest tasks i of S_i^k / (sum_i S_i^k) (triplet k of i), S as in
            +sensitivity_init, while the nearest slots answer in equal shares
        start = of fresh, nearest and mean, the one with the least loss of the task's validation rows before any step

    Args:
        method: The method to modify: it has a low-rank slot for each task, as inc_lora or am_lora.
        begin_with: 'held_out' as above; or always the same one.
        nearest: How many tasks are averaged, at most.
        held_out_rows: How many validation rows are read, at most.
        seed_samples: Rows that sensitivities are measured on, as in +sensitivity_init.
        views: Read the 'prompt', the 'bare' text, or 'both'.
        layer: Of the states; 0 is the embedding, -1 the last layer's output.
        ridge: c of +evidence, which keeps the covariance invertible.
        along: Where c is added, as in +evidence.

    Assumed:
        - Signs of triplets are aligned before they are averaged. Of equally near tasks the newest comes first.
        - Validation rows are read before the first step, and not kept. Where there are none, the start is fresh.
        - Where updates are summed, a copy comes on top of the sum that holds it: there the loss decides against it.

    Note:
        What was chosen, and the losses, are in the run's events (`start_chosen`).

    Sources:
        Own. LB-CL (NeurIPS 2024) averages all earlier tasks.
    """
    sums = SumsSettings(layer=layer, ridge=ridge, along=along)
    return method.with_start(WarmStart(sums, views, begin_with, nearest, held_out_rows, seed_samples))
