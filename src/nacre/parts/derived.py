"""What follows from what a part remembers, and is computed again only when that has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nacre.parts.part import LearnerView

T = TypeVar("T")


def derived(learner: LearnerView, key: str, known: object, make: Callable[[], T]) -> T:
    """The value that was made of this very state, or a new one.

    Args:
        learner: Who keeps it, in `learner.cache`.
        key: Its place there.
        known: The state that it follows from.
        make: Makes it.
    """
    kept = learner.cache.get(key)
    if kept is None or kept[0] is not known:
        kept = learner.cache[key] = known, make()
    value: T = kept[1]
    return value
