"""Evidence about classes, gathered into evidence about what several of them share: a label, a task, a slot."""

from __future__ import annotations

import torch
from torch import Tensor


def gathered(evidence: Tensor, owners: Tensor, count: int, *, by_sum: bool) -> Tensor:
    """The largest of each group, or the logarithm of their summed exponentials.

    Args:
        evidence: Log evidence of each class [B, P]; -inf where one cannot be.
        owners: The number of each class's group [P]; -1 of a class that is left out.
        count: How many groups there are.
        by_sum: Whether evidence is summed.

    Returns:
        [B, count]; -inf of a group without a class.
    """
    evidence, owners = evidence[:, owners >= 0], owners[owners >= 0]
    nothing = evidence.new_full((len(evidence), count), -torch.inf)
    if not len(owners):
        return nothing
    if not by_sum:
        return nothing.scatter_reduce(1, owners.expand_as(evidence), evidence, "amax")
    most = evidence.amax(1, keepdim=True).clamp(min=torch.finfo(evidence.dtype).min)
    summed = torch.zeros_like(nothing).index_add(1, owners, (evidence - most).exp())
    return summed.log() + most


def largest_shares(shares: Tensor, most: int) -> Tensor:
    """The largest of log shares, normalized to a sum of 1; the others are 0. Of equal ones, the first.

    Args:
        shares: Log shares [B, t], each row with a finite one.
        most: How many are kept, at most.

    Returns:
        [B, t]; with one, exactly 1.
    """
    kept = shares.sort(dim=1, descending=True, stable=True).indices[:, :most]
    chosen = torch.zeros_like(shares, dtype=torch.bool).scatter(1, kept, True)
    return shares.masked_fill(~chosen, -torch.inf).softmax(1)
