"""Where to cut rows that are sorted by length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence


def least_padding(lengths: Sequence[int], worth: int) -> list[slice]:
    """The cut of rows in order of their length that has the least padded tokens + `worth` * batches.

    Rows of one length stay together. By dynamic programming over the indices where the length changes: best(end) is
    the least over the start of the last batch.

    Args:
        lengths: The rows', in ascending order.
        worth: Cut further wherever one more batch saves more than this many tokens of padding.

    Returns:
        One slice a batch, in order.
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
