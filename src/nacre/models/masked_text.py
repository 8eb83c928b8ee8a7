"""Masked language modeling: chunks of text with hidden tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nacre.errors import DataError
from nacre.functional.token_masks import corrupted, hidden_positions
from nacre.seeds import derive

RATE = 0.15


@dataclass(frozen=True)
class TokenMasking:
    """How tokens of a text are hidden.

    Attributes:
        mask: The mask token.
        vocabulary: How many tokens there are to draw replacements from.
        special: Tokens that are never hidden.
        rate: The share of the others that is.
    """

    mask: int
    vocabulary: int
    special: frozenset[int]
    rate: float = RATE

    def draw(self, ids: Sequence[int], seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Hide some tokens of a text: a function of the text and the seed.

        Drawn on the CPU, so that it is the same on every device.

        Returns:
            The text with hidden tokens, and their positions.
        """
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.tensor(ids)
        maskable = torch.tensor([token not in self.special for token in ids])
        positions = hidden_positions(maskable, torch.rand(len(ids), generator=generator), self.rate)
        fills = torch.rand(len(positions), generator=generator)
        other = torch.randint(self.vocabulary, (len(positions),), generator=generator)
        return tuple(corrupted(tokens, positions, fills, other, self.mask).tolist()), tuple(positions.tolist())


def masking_of(tokenizer: Any) -> TokenMasking:
    """The masking that a tokenizer's special tokens define.

    Raises:
        DataError: If it has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise DataError("The tokenizer has no mask token, so that it can learn no text: set tokenizer.mask_token.")
    return TokenMasking(int(tokenizer.mask_token_id), len(tokenizer), frozenset(tokenizer.all_special_ids))


@dataclass(frozen=True)
class MaskedText:
    """A chunk of text, some of whose tokens are hidden.

    Other ones are hidden in every epoch (dynamic masking, as in RoBERTa).

    Attributes:
        ids: The text itself.
        masking: How its tokens are hidden.
        shown: The text with hidden tokens: what the model reads.
        positions: Where they are.
    """

    ids: tuple[int, ...]
    masking: TokenMasking
    shown: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()

    @classmethod
    def of(cls, ids: tuple[int, ...], masking: TokenMasking) -> MaskedText:
        """The text with its first masks, which depend on the text alone."""
        digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
        return cls(ids, masking).with_fresh_masks(0, "text", digest)

    @property
    def hidden(self) -> tuple[int, ...]:
        """The hidden tokens, which are to be predicted."""
        return tuple(self.ids[position] for position in self.positions)

    def with_fresh_masks(self, seed: int, *where: str | int) -> MaskedText:
        """The text with other tokens hidden, by the seed and the place of use alone."""
        shown, positions = self.masking.draw(self.ids, derive(seed, "masks", *where))
        return replace(self, shown=shown, positions=positions)
