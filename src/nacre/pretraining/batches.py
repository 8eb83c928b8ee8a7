"""From windows of token ids to the tensors of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nacre.functional.losses import IGNORED
from nacre.pretraining.objectives import corrupt_spans, cut_in_two, masked_tokens
from nacre.pretraining.settings import PretrainSettings
from nacre.pretraining.tokenizer import sentinel_ids
from nacre.pretraining.windows import TokenWindow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WindowBatches:
    """Batches for one tokenizer and objective; a batch is a function of its windows and random generator."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings) -> None:
        """Read the special tokens.

        Args:
            tokenizer: Made or loaded by `pretraining.tokenizer`.
            settings: Objective and its shares.
        """
        self.settings = settings
        self.pad: int = tokenizer.pad_token_id
        self.eos: int = tokenizer.eos_token_id
        self.bos: int | None = tokenizer.bos_token_id
        self.sentinels = sentinel_ids(tokenizer)
        self.word_starts = {number for token, number in tokenizer.get_vocab().items() if token[:1] in ("Ġ", "▁", "Ċ")}

    def make(self, windows: Sequence[TokenWindow], rng: random.Random) -> dict[str, Tensor]:
        """One batch.

        Args:
            windows: One for each row.
            rng: Draws the masks and cuts.

        Returns:
            Keyword arguments of the model's forward: input_ids, attention_mask, labels, each [batch, tokens].
        """
        pairs = [self.pair(window, rng) for window in windows]
        return {
            "input_ids": _padded([inputs for inputs, _ in pairs], self.pad),
            "attention_mask": _padded([[1] * len(inputs) for inputs, _ in pairs], 0),
            "labels": _padded([targets for _, targets in pairs], IGNORED),
        }

    def pair(self, window: TokenWindow, rng: random.Random) -> tuple[list[int], list[int]]:
        """Input and target of one window, both ended by `</s>`; a causal model's are the same.

        Args:
            window: Token ids without special tokens.
            rng: Draws the mask or cut.
        """
        settings = self.settings
        if settings.objective == "causal":
            front = [] if self.bos is None else [self.bos]
            tokens = [*front, *window, self.eos]
            return tokens, tokens
        if rng.random() < settings.continuation:
            inputs, targets = cut_in_two(window, self.word_starts, rng)
        else:
            masked = masked_tokens(len(window), settings.mask_share, settings.mean_span, rng)
            inputs, targets = corrupt_spans(window, masked, self.sentinels)
        return [*inputs, self.eos], [*targets, self.eos]


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
