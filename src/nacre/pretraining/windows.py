"""From texts to windows of token ids: for training, and held out for measuring."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nacre.errors import DataError
from nacre.pretraining.settings import PretrainSettings
from nacre.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenWindow = list[int]
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.05, 256


def windows_of(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings
) -> list[TokenWindow]:
    """Token ids of every text, without special tokens, cut into windows of at most `settings.length`.

    A window with fewer than two tokens is left out: one cannot be masked while another is kept.

    Args:
        texts: To encode.
        tokenizer: Encodes them.
        settings: Hold the length.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    cut = (ids[start : start + settings.length] for ids in encoded for start in range(0, len(ids), settings.length))
    return [window for window in cut if len(window) >= 2]


def hold_out(
    windows: Sequence[TokenWindow], settings: PretrainSettings, source: str
) -> tuple[list[TokenWindow], list[TokenWindow]]:
    """Windows to train on, and held-out ones: a twentieth of all, at least 1 and at most 256.

    Args:
        windows: All of them.
        settings: Hold the seed.
        source: Where the text came from, for the error.

    Raises:
        DataError: There are fewer than two windows.
    """
    if len(windows) < 2:
        raise DataError(
            f"{source} holds too little text: {len(windows)} passages of at least two tokens; two are needed, "
            "one to learn from and one to measure on."
        )
    count = max(1, min(_HELD_OUT_MOST, int(len(windows) * _HELD_OUT_SHARE)))
    chosen = set(random.Random(derive(settings.seed, "pretrain", "held out")).sample(range(len(windows)), count))
    train = [window for index, window in enumerate(windows) if index not in chosen]
    return train, [windows[index] for index in sorted(chosen)]
