"""Finding the most likely label in a tree of labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 4
"""Nodes of a row that a round looks at. The output layer's weight is read from memory once a round, whether for one
node a row or for a few."""


def most_likely_labels(
    logits: Callable[[Tensor, Tensor], Tensor], size: int, tokens: Tensor, destinations: Tensor, labels: int
) -> Tensor:
    """The label whose tokens have the largest sum of log-probabilities, row by row.

        argmax_l sum_i log softmax(logits(node_i))[token_i]

    logits: of given nodes of given rows, [k], [k] -> [k, V]. size: the number of rows B. tokens, destinations: what
    may follow each node, [N, ways]; a destination below N is a node, from there on a label, the last one nowhere.
    Returns [B]; of equally likely labels, the first.

    Best first: log-probabilities are never positive, so that no label behind a node is more likely than the node. Each
    round looks at every row's most likely nodes whose turn has not come, ``AT_ONCE`` at most, as long as they are not
    below the row's best label. What is never looked at cannot win; what can is summed up in full.
    """
    nodes = len(tokens)
    reached: Tensor | None = None  # [B, N + labels + 1]: log-probability of each destination; -inf: not known, or lost
    waiting = torch.ones(size, nodes, dtype=torch.bool, device=tokens.device)
    rows = torch.arange(size, device=tokens.device)
    chosen = torch.zeros_like(rows)  # every row begins at node 0
    while len(rows):
        found = logits(rows, chosen)
        found = found.to(torch.promote_types(found.dtype, torch.float32)).log_softmax(-1)
        if reached is None:
            reached = found.new_full((size, nodes + labels + 1), -torch.inf)
            reached[:, 0] = 0.0
        onwards = reached[rows, chosen, None] + found.gather(-1, tokens[chosen])
        reached[rows[:, None], destinations[chosen]] = onwards
        waiting[rows, chosen] = False
        best = reached[:, nodes:-1].amax(-1)
        ahead, ranked = reached[:, :nodes].masked_fill(~waiting, -torch.inf).topk(min(AT_ONCE, nodes), -1)
        rows, place = ((ahead >= best[:, None]) & (ahead > -torch.inf)).nonzero(as_tuple=True)
        chosen = ranked[rows, place]
    assert reached is not None
    return reached[:, nodes:-1].argmax(-1)
