"""Removing from a vector what lies in directions that earlier tasks use (LB-CL, stage 2; rows are the vectors here).

All three readings of the slide's sum over k of proj(g, G_k) have one form,

    g <- g - g D^T D,

and differ in the rows of D:

    union: an orthonormal basis of the span of all earlier tasks' vectors (`functional.spans`): the orthogonal
        projection on its complement, after which nothing is left in the span.
    sum: an orthonormal basis for each task, one below the other: I - sum_k P_k, the slide's formula to the letter. What
        lies in the spans of m tasks is multiplied by 1 - m: removed for m = 1, reversed for m = 2.
    vectors: every vector alone, at length 1: I - sum_k sum_i v v^T / v^T v.

sum and vectors are the union where all these spans, or vectors, are orthogonal to each other. A row of zeros in D
removes nothing.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import normalize

from nacre.functional.spans import extended, no_spans

Space = Literal["union", "sum", "vectors"]


def directions_of_task(vectors: Tensor, space: Literal["sum", "vectors"]) -> Tensor:
    """One earlier task's own rows of D.

    Args:
        vectors: n stacks of its vectors, [n, r, d].
        space: Which reading of the sum.

    Returns:
        [n, q, d] with q <= r.
    """
    if space == "vectors":
        return normalize(vectors, dim=-1)  # a vector of zeros stays one
    return extended(no_spans(vectors), vectors).basis


def part_within(rows: Tensor, directions: Tensor) -> Tensor:
    """g D^T D, which is to be subtracted from g.

    Args:
        rows: g, [..., r, d].
        directions: D, [..., q, d].

    Returns:
        [..., r, d].
    """
    return rows @ directions.transpose(-1, -2) @ directions
