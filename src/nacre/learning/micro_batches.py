"""How a step's rows are split into micro-batches: by length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from nacre.models.families import Encoded


def in_micro_batches(rows: Sequence[Encoded], at_least: int, split_padding: int | None) -> list[Sequence[Encoded]]:
    """The rows, sorted by length, as runs of which each is computed at once.

    at_least: into so many runs of nearly equal size they are split in any case (fewer only if there are fewer rows).
    split_padding: each of them is split further where that saves more than this many tokens of padding for every
    micro-batch more; None: nowhere. Which rows make up the step is not touched, and the loss is a sum over its rows,
    so that the step stays the same but for rounding.
    """
    ordered = sorted(rows, key=Encoded.length)
    runs = split(ordered, at_least)
    return runs if split_padding is None else [part for run in runs for part in _cheapest(run, split_padding)]


def split(rows: Sequence[Encoded], parts: int) -> list[Sequence[Encoded]]:
    """Up to ``parts`` runs of nearly equal size, none of them empty."""
    parts = min(parts, len(rows))
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(bounds)]


def _cheapest(rows: Sequence[Encoded], split_padding: int) -> list[Sequence[Encoded]]:
    """The split of rows in order of their length that has the least padded tokens + split_padding * micro-batches.

    By dynamic programming over the places where the length changes: best(end) is the least over the start of
    the last micro-batch.
    """
    widths = [row.length() for row in rows]
    bounds = [0, *(i for i in range(1, len(rows)) if widths[i] != widths[i - 1]), len(rows)]
    best, first = [0], [0]  # for the rows before each bound: the cost, and where their last micro-batch starts
    for end in range(1, len(bounds)):
        costs = [
            best[start] + split_padding + (bounds[end] - bounds[start]) * widths[bounds[end] - 1]
            for start in range(end)
        ]
        best.append(min(costs))
        first.append(costs.index(best[end]))
    parts: list[Sequence[Encoded]] = []
    end = len(bounds) - 1
    while end:
        parts.append(rows[bounds[first[end]] : bounds[end]])
        end = first[end]
    return parts[::-1]
