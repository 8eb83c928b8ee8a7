"""Label strings as a tree of shared prefixes, so that a model need read each prefix only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

Labels = tuple[tuple[int, ...], ...]
"""A label set as numbers: each label's tokens with the end token, or, where labels are chosen whole, its class."""


@dataclass(frozen=True)
class LabelTree:
    """Labels, token by token.

    Every proper prefix of a label is a node; node 0 is the empty one, and parents come before their children. A label's
    last token leads nowhere, so that it needs no node.

    Attributes:
        labels: Each label's tokens.
    """

    labels: Labels

    @cached_property
    def nodes(self) -> tuple[tuple[int, ...], ...]:
        """The prefix of each of the N nodes."""
        return tuple(dict.fromkeys(label[:length] for label in self.labels for length in range(len(label))))

    @cached_property
    def number(self) -> dict[tuple[int, ...], int]:
        """The node of each prefix."""
        return {written: number for number, written in enumerate(self.nodes)}

    @cached_property
    def depths(self) -> Tensor:
        """Tokens written, [N]."""
        return _numbers([len(written) for written in self.nodes])

    @cached_property
    def tokens(self) -> Tensor:
        """The last token written, [N - 1]: of all nodes but the first."""
        return _numbers([written[-1] for written in self.nodes[1:]])

    @cached_property
    def ancestors(self) -> Tensor:
        """Whether column j is row i or lies on the way to it, [N, N]."""
        return _numbers([[node[: len(other)] == other for other in self.nodes] for node in self.nodes], torch.bool)

    @cached_property
    def continuations(self) -> tuple[Tensor, Tensor]:
        """Which tokens may follow each node, and where they lead.

        Returns:
            Tokens and destinations, [N, continuations] each. A destination below N is a node, from there on a label
            that is complete with the token; the last one, behind all labels, is nowhere, for nodes with fewer
            continuations than others.
        """
        follow: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        ends = [(label, len(self.nodes) + index) for index, label in enumerate(self.labels)]
        for written, destination in [*list(self.number.items())[1:], *ends]:
            follow[self.number[written[:-1]]].append((written[-1], destination))
        nowhere = (0, len(self.nodes) + len(self.labels))
        most = max(map(len, follow))
        table = [pairs + [nowhere] * (most - len(pairs)) for pairs in follow]
        tokens, destinations = ([[pair[side] for pair in pairs] for pairs in table] for side in (0, 1))
        return _numbers(tokens), _numbers(destinations)

    @cached_property
    def paths(self) -> Tensor:
        """The continuations that each label is made of, [labels, steps].

        A continuation is the number of its node, times the number of ways on from a node, plus its place among them.
        The last number, behind all of them, is no continuation, for labels that are shorter than others.
        """
        tokens, destinations = self.continuations
        ways = tokens.shape[1]
        behind = {
            (node, token): node * ways + way
            for node, follow in enumerate(tokens.tolist())
            for way, token in enumerate(follow)
            if destinations[node, way] < len(self.nodes) + len(self.labels)
        }
        steps = max(map(len, self.labels))
        nothing = tokens.numel()
        rows = [[behind[self.number[label[:step]], token] for step, token in enumerate(label)] for label in self.labels]
        return _numbers([row + [nothing] * (steps - len(row)) for row in rows])

    @cached_property
    def positions(self) -> Tensor:
        """A label that begins with the node's prefix, and the prefix's length, [N, 2]."""
        seen = {label[:step]: (index, step) for index, label in enumerate(self.labels) for step in range(len(label))}
        return _numbers([seen[node] for node in self.nodes])

    def beginnings(self, first: int) -> Tensor:
        """Every label without its last token, behind `first`, filled up to one length with it, [labels, steps]."""
        rows = [[first, *label[:-1]] for label in self.labels]
        width = max(map(len, rows))
        return torch.tensor([row + [first] * (width - len(row)) for row in rows])


@lru_cache(maxsize=64)
def tree_of(labels: Labels) -> LabelTree:
    """The labels' tree; the same one again for the same labels."""
    return LabelTree(labels)


@torch.inference_mode(mode=False)
def _numbers(values: Sequence[Any], dtype: torch.dtype = torch.long) -> Tensor:
    """A tensor that is kept. Training uses it, too, even where it is first asked for while rows are answered."""
    return torch.tensor(values, dtype=dtype)
