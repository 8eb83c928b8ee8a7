"""How the learning rate runs over a task's steps, as closed forms."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def rate_factor(schedule: Schedule, step: int, steps: int, *, warmup: float = 0.0) -> float:
    """What the rate is multiplied with at a step (from 0) of a task that has ``steps`` of them.

    With W = ceil(warmup * steps) steps of warm-up, the factor is (step + 1) / W before step W, and from there on, with
    p = (step - W) / (steps - W):

        constant  1
        linear    1 - p
        cosine    (1 + cos(pi p)) / 2

    These are transformers' ``get_*_schedule_with_warmup`` and its rounding of the share, but for one thing: its first
    step has rate 0, so that a task of one step would learn nothing. Here no step has.

    Args:
        schedule: The form after the warm-up.
        step: From 0.
        steps: Of the task.
        warmup: Share of the steps, in [0, 1).
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, steps - rising)
    return max(0.0, 1 - done) if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
