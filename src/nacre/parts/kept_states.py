"""States of test rows in the bare host, kept while there is room: after each task the same rows are answered again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import LearnerView

KEPT_BYTES = 2**28
"""So many bytes of states are kept."""

_KEY = "states of test rows"


def kept_states(learner: LearnerView, rows: Sequence[Encoded], view: PooledStates) -> Tensor:
    """z of one batch [B, d], in float64; the same batch is read once, so that what is kept changes no bit."""
    content = _content(rows, view)
    kept: dict[bytes, Tensor] = learner.cache.setdefault(_KEY, {})
    if content not in kept:
        read = learner.pooled_states(rows, view)
        if (len(kept) + 1) * read.numel() * read.element_size() > KEPT_BYTES:
            kept.clear()
        kept[content] = read
    return kept[content].double()


def states_at_hand(learner: LearnerView, rows: Callable[[], Sequence[Encoded]], view: PooledStates) -> Tensor | None:
    """What `kept_states` keeps of this very batch [B, d], as the host gave it; None if it keeps nothing of it.

    Args:
        learner: Who keeps it.
        rows: Makes the rows, which is not done where nothing is kept at all.
        view: Which states.
    """
    kept: dict[bytes, Tensor] | None = learner.cache.get(_KEY)
    return kept.get(_content(rows(), view)) if kept else None


@contextmanager
def some_at_hand(
    learner: LearnerView, rows: Sequence[Encoded], numbers: Sequence[int], views: Sequence[PooledStates]
) -> Iterator[None]:
    """Some rows of a batch have the states that were read with all of it, where they are kept, and only in here.

    Afterward the same rows as a batch of their own have those that they had before.

    Args:
        learner: Who keeps them.
        rows: The batch.
        numbers: Of the rows among them.
        views: Which states.
    """
    if len(numbers) == len(rows):  # the batch itself
        yield
        return
    kept: dict[bytes, Tensor] = learner.cache.get(_KEY, {})
    read = {view: kept.get(_content(rows, view)) for view in views}
    some = [rows[number] for number in numbers]
    own = {_content(some, view): states[list(numbers)] for view, states in read.items() if states is not None}
    before = {content: kept[content] for content in own.keys() & kept.keys()}
    kept.update(own)
    try:
        yield
    finally:
        for content in own:
            kept.pop(content, None)
        kept.update(before)


def _content(rows: Sequence[Encoded], view: PooledStates) -> bytes:
    return hashlib.sha256(repr((view, [(row.source, row.bare) for row in rows])).encode()).digest()
