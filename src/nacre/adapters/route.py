"""A route: the learned parameters of an adapter that answer each row of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Route:
    """A routing's decision for one batch of B rows; adapters refuse a route that they cannot follow.

    Attributes:
        weights: `w` [B, t], the weight of each of the adapter's t slots for each row, newest last: one-hot, or a
            mixture, whose graph is kept. None: as the adapter combines its slots by itself.
        prompts: For prompt adapters, the rows of the prompt table that each row's k placeholders stand for, [B, k].
            None: the prompts that were written in front of the input.
        classes: Which of an encoder-only host's C classes may answer each row, [B, C] of bool. None: all of them, and
            in hosts that write.
        scores: What the routing compared to decide, [B, ...], with its graph: for batch terms (`MicroBatch.route`),
            no adapter looks at it.
    """

    weights: Tensor | None = None
    prompts: Tensor | None = None
    classes: Tensor | None = None
    scores: Tensor | None = None
