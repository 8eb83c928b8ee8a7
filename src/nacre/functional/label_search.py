"""The log-probabilities of the labels of a tree: the largest of them, or all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 4
"""Nodes of a row that are expanded per round. The output layer's weight is read from memory once a round, whether for
one node a row or for a few."""


def most_likely_labels(
    logits: Callable[[Tensor, Tensor], Tensor], size: int, tokens: Tensor, destinations: Tensor, labels: int
) -> Tensor:
    """The label whose tokens have the largest sum of log-probabilities, row by row.

        argmax_l sum_i log softmax(logits(node_i))[token_i]

    Best-first search: log-probabilities are never positive, so no label behind a node is more likely than the node.
    Each round expands every row's most likely open nodes, `AT_ONCE` at most, unless they are less likely than the row's
    best label so far. Nodes that are never expanded cannot win; labels that can win are summed in full.

    Args:
        logits: From rows [k] and nodes [k] to logits [k, V].
        size: The number of rows, B.
        tokens: Tokens that may follow each node, [N, ways].
        destinations: Where they lead, [N, ways]. A destination below N is a node, from there on a label; the last one
            is nowhere.
        labels: How many labels there are.

    Returns:
        Index of the most likely label, [B]; of equally likely ones, the first.
    """
    nodes = len(tokens)
    reached: Tensor | None = None  # [B, N + labels + 1]: log-probability of each destination; -inf: not reached yet
    waiting = torch.ones(size, nodes, dtype=torch.bool, device=tokens.device)
    rows = torch.arange(size, device=tokens.device)
    chosen = torch.zeros_like(rows)  # every row begins at node 0
    while len(rows):
        scores = logits(rows, chosen)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
        if reached is None:
            reached = scores.new_full((size, nodes + labels + 1), -torch.inf)
            reached[:, 0] = 0.0
        onwards = reached[rows, chosen, None] + scores.gather(-1, tokens[chosen])
        reached[rows[:, None], destinations[chosen]] = onwards
        waiting[rows, chosen] = False
        best = reached[:, nodes:-1].amax(-1)
        ahead, ranked = reached[:, :nodes].masked_fill(~waiting, -torch.inf).topk(min(AT_ONCE, nodes), -1)
        rows, place = ((ahead >= best[:, None]) & (ahead > -torch.inf)).nonzero(as_tuple=True)
        chosen = ranked[rows, place]
    assert reached is not None
    return reached[:, nodes:-1].argmax(-1)


def label_log_probabilities(
    logits: Callable[[Tensor, Tensor], Tensor], size: int, tokens: Tensor, paths: Tensor, at_once: int
) -> Tensor:
    """sum_i log softmax(logits(node_i))[token_i] of every label, with its graph.

    Args:
        logits: From rows [k] and nodes [k] to logits [k, V].
        size: The number of rows, B.
        tokens: Tokens that may follow each node, [N, ways].
        paths: The continuations that each label is made of, [labels, steps] (`LabelTree.paths`).
        at_once: How many logits may be computed at once; at least those of one node are.

    Returns:
        [B, labels], in float32 at least.
    """
    nodes, ways = tokens.shape
    rows = torch.arange(size, device=tokens.device)
    found: list[Tensor] = []
    step, start = 1, 0
    while start < nodes:
        own = torch.arange(start, min(start + step, nodes), device=tokens.device)
        scores = logits(rows.repeat_interleave(len(own)), own.repeat(size))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
        found.append(scores.gather(-1, tokens[own].repeat(size, 1)).view(size, len(own) * ways))
        start, step = start + len(own), max(1, at_once // (size * scores.shape[-1]))
    continuations = torch.cat([*found, found[0].new_zeros(size, 1)], 1)
    return continuations[:, paths].sum(-1)
