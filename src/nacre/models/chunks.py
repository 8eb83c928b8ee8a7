"""Unlabeled text as chunks of one length: no token is padding, and no long text is cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

GROUP = 1000
"""How many texts are joined before they are cut."""


def chunked(texts: Sequence[Sequence[int]], length: int) -> Iterator[tuple[int, ...]]:
    """Join the token ids of every 1,000 texts and cut them into chunks of `length`.

    A shorter rest is dropped, unless it is all there is.

    Source: `group_texts` of ContinualLM (posttrain.py, utils/data.py), there with length 164. It would leave nothing
    of fewer tokens than a chunk has.

    Args:
        texts: Ids with each text's own special tokens, which stay where they are: a chunk may begin and end anywhere.
        length: Tokens of a chunk.
    """
    for first in range(0, len(texts), GROUP):
        ids = tuple(chain.from_iterable(texts[first : first + GROUP]))
        whole = len(ids) // length
        yield from (ids[start : start + length] for start in range(0, whole * length, length))
        if whole == 0 and ids:
            yield ids
