"""How a step's rows are split into micro-batches: by length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from nacre.models.families import Encoded
from nacre.models.padding import least_padding


def in_micro_batches(rows: Sequence[Encoded], at_least: int, split_padding: int | None) -> list[Sequence[Encoded]]:
    """The rows, sorted by length, as runs of which each is computed at once.

    at_least: into so many runs of nearly equal size they are split in any case (fewer only if there are fewer rows).
    split_padding: each of them is split further where that saves more than this many tokens of padding for every
    micro-batch more; None: nowhere. Which rows make up the step is not touched, and the loss is a sum over its rows,
    so that the step stays the same but for rounding.
    """
    ordered = sorted(rows, key=Encoded.length)
    runs = split(ordered, at_least)
    if split_padding is None:
        return runs
    return [run[part] for run in runs for part in least_padding([row.length() for row in run], split_padding)]


def split(rows: Sequence[Encoded], parts: int) -> list[Sequence[Encoded]]:
    """Up to ``parts`` runs of nearly equal size, none of them empty."""
    parts = min(parts, len(rows))
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(bounds)]
