"""Where to cut rows that are sorted by length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence


def least_padding(lengths: Sequence[int], worth: int) -> list[slice]:
    """The cut of rows in order of their length that has the least padded tokens + ``worth`` * batches.

    lengths: in ascending order. worth: tokens of padding that are worth one batch more. Rows of one length stay
    together. Returns one slice a batch, in order.

    By dynamic programming over the places where the length changes: best(end) is the least over the start of the last
    batch.
    """
    bounds = [0, *(i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]), len(lengths)]
    best, first = [0], [0]  # for the rows before each bound: the cost, and where their last batch starts
    for end in range(1, len(bounds)):
        costs = [best[start] + worth + (bounds[end] - bounds[start]) * lengths[bounds[end] - 1] for start in range(end)]
        best.append(min(costs))
        first.append(costs.index(best[end]))
    parts: list[slice] = []
    end = len(bounds) - 1
    while end:
        parts.append(slice(bounds[first[end]], bounds[end]))
        end = first[end]
    return parts[::-1]
