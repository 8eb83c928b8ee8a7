"""How a host's architecture can read rows and give the same numbers as for each row alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from nacre.errors import ModelError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Ways:
    """What may be done to rows without changing what is computed of them. Everything, unless it was found otherwise.

    Attributes:
        padded: Prompts of unlike length may share a batch.
        cached: Answers may be written behind a cache.
        labels_cached: Labels may be read behind a cached prompt, or behind the encoder's output.
        labels: Labels can be read at all.
    """

    padded: bool = True
    cached: bool = True
    labels_cached: bool = True
    labels: bool = True

    def described(self) -> str:
        """A description of what is done instead of what may not be done; empty if everything may be done."""
        instead = [] if self.padded else ["prompts of unlike length are read in batches of their own"]
        instead += [] if self.cached else ["answers are written without a cache"]
        if not self.labels:
            instead.append("decode=labels is refused")
        elif not self.labels_cached:
            instead.append("labels are read together with their prompts, without a cache")
        return "; ".join(instead)

    def check_labels(self) -> None:
        """Check that labels can be read.

        Raises:
            ModelError: If they cannot.
        """
        if not self.labels:
            raise ModelError(
                "This model's architecture gives other likelihoods to labels in a batch than to each alone, with and "
                "without a cache: use decode=free."
            )


def by_length(rows: Sequence[T], length: Callable[[T], int], read: Callable[[Sequence[T]], Iterable[R]]) -> list[R]:
    """Read rows in groups of one length.

    Args:
        rows: In any order.
        length: Of a row.
        read: Gives a result for each row of a group, in its order.

    Returns:
        The results in the order of the rows.
    """
    order = sorted(range(len(rows)), key=lambda index: length(rows[index]))
    results: dict[int, R] = {}
    for _, group in groupby(order, key=lambda index: length(rows[index])):
        members = list(group)
        results.update(zip(members, read([rows[index] for index in members]), strict=True))
    return [results[index] for index in range(len(rows))]
