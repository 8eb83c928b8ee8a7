"""Removing from a vector what lies in directions that earlier tasks use (LB-CL, stage 2; rows are the vectors here).

All three readings of the slide's sum over k of proj(g, G_k) have one form,

    g <- g - g D^T D,

and differ in the rows of D: see ``used_directions``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Space = Literal["union", "sum", "vectors"]


def span_basis(vectors: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Orthonormal rows that span what the rows of ``vectors`` [m, d] span. Returns [q, d], q <= min(m, d).

    Directions whose singular value is at most ``tolerance`` times the largest do not count; all-zero rows span
    nothing. Computed in float64 on the CPU, whatever comes in.
    """
    _, values, rows = torch.linalg.svd(vectors.detach().to("cpu", torch.float64), full_matrices=False)
    kept: Tensor = rows[values > tolerance * values.max()] if len(values) else rows
    return kept.to(vectors)


def used_directions(past: Tensor, space: Space) -> Tensor:
    """The rows of D for the earlier tasks' vectors ``past`` [t-1, r, d]. Returns [q, d].

    union: an orthonormal basis of the span of all of them: the orthogonal projection on its complement, after which
        nothing is left in the span.
    sum: an orthonormal basis for each task, one below the other: I - sum_k P_k, the slide's formula to the letter. What
        lies in the spans of m tasks is multiplied by 1 - m: removed for m = 1, reversed for m = 2.
    vectors: every vector alone, at length 1: I - sum_k sum_i v v^T / v^T v.
    sum and vectors are the union where all these spans, or vectors, are orthogonal to each other.
    """
    if space == "union":
        return span_basis(past.flatten(0, 1))
    if space == "sum":
        return torch.cat([past.new_zeros(0, past.shape[-1]), *(span_basis(task) for task in past)])
    vectors = past.flatten(0, 1)
    return normalize(vectors[vectors.any(-1)], dim=-1)


def part_within(rows: Tensor, directions: Tensor) -> Tensor:
    """g D^T D, which is what is to be subtracted: rows g [..., r, d], directions D [..., q, d]. Returns [..., r, d]."""
    return rows @ directions.transpose(-1, -2) @ directions
