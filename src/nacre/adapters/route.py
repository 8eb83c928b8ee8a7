"""A route: the learned parameters of an adapter that answer each row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
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
        score_offsets: For gated adapters: what is added to each row's score of the zero LoRA and of the slots, in front
            of the softmax [B, 1 + t]. None: nothing.
        scores: What the routing compared to decide, [B, ...], with its graph: for batch terms (`MicroBatch.route`),
            no adapter looks at it.
    """

    weights: Tensor | None = None
    prompts: Tensor | None = None
    classes: Tensor | None = None
    score_offsets: Tensor | None = None
    scores: Tensor | None = None

    def rows(self, numbers: Sequence[int]) -> Route:
        """The route of some of the rows, by their numbers."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Route(**{name: None if value is None else value[list(numbers)] for name, value in own.items()})
