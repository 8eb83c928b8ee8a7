"""A route: the learned parameters of an adapter that answer each row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import final

from torch import Tensor
from torch.nn import functional as F

from nacre.errors import ModelError
from nacre.functional.segments import NONE


@final
@dataclass(frozen=True, eq=False)
class Route:
    """A routing's decision for one batch of B rows; adapters refuse a route that they cannot follow.

    Attributes:
        weights: `w` [B, t], the weight of each of the adapter's t slots for each row, newest last: a mixture, whose
            graph is kept. None: as the adapter combines its slots by itself, or `slots`.
        prompts: For prompt adapters, the rows of the prompt table that each row's k placeholders stand for, [B, k].
            None: the prompts that were written in front of the input.
        classes: Which of an encoder-only host's C classes may answer each row, [B, C] of bool. None: all of them, and
            in hosts that write.
        score_offsets: For gated adapters: what is added to each row's score of the zero LoRA and of the slots, in front
            of the softmax [B, 1 + t]. None: nothing.
        scores: What the routing compared to decide, [B, ...], with its graph: for batch terms (`MicroBatch.route`),
            no adapter looks at it.
        slots: In place of `weights`, the one slot that answers each row alone, from 0, [B] of whole numbers; `NONE`:
            no slot, the bare host. Other slots cost nothing then. On the CPU where they are known there, so that
            nothing waits for a device.
    """

    weights: Tensor | None = None
    prompts: Tensor | None = None
    classes: Tensor | None = None
    score_offsets: Tensor | None = None
    scores: Tensor | None = None
    slots: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and self.slots is not None:
            raise ModelError("A route names one slot for each row, or weights of all slots, and not both.")

    @property
    def names_slots(self) -> bool:
        """Whether it says which slots answer, by `weights` or `slots`."""
        return self.weights is not None or self.slots is not None

    def rows(self, numbers: Sequence[int]) -> Route:
        """The route of some of the rows, by their numbers."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Route(**{name: None if value is None else value[list(numbers)] for name, value in own.items()})

    def as_weights(self, number: int) -> Tensor | None:
        """`weights`, or those that `slots` amount to: 1 for a row's slot, and 0 for others.

        Args:
            number: t, of the adapter's slots.

        Returns:
            [B, t]; None where the route names neither.
        """
        if self.slots is None:
            return self.weights
        answered = self.slots != NONE
        return F.one_hot(self.slots.long().clamp(min=0), number).float() * answered.unsqueeze(1)

    @property
    def likeliest_slots(self) -> Tensor:
        """The slot of each row, or the one with the largest weight, [B]; `NONE` where no slot answers."""
        if self.slots is not None:
            return self.slots
        assert self.weights is not None
        return self.weights.argmax(-1)
