"""A route: which of an adapter's learned parameters answer each row of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Route:
    """What a routing decides for one batch of B rows; adapters refuse what they cannot follow.

    Attributes:
        weights: `w` [B, t], how much of each of the adapter's t slots a row takes, newest last: one-hot, or a mixture,
            whose graph is kept. None: as the adapter combines its slots by itself.
        prompts: [B, k], of prompt adapters: which rows of the prompt table stand for each row's k placeholders. None:
            the prompts that were written in front of the input.
    """

    weights: Tensor | None = None
    prompts: Tensor | None = None
