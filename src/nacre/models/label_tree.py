"""Label strings as a tree of shared beginnings, so that a model need read each beginning only once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

Labels = tuple[tuple[int, ...], ...]
"""A label set as numbers: each label's tokens with the end token, or, where labels are chosen whole, its class."""


@dataclass(frozen=True)
class LabelTree:
    """Labels, token by token. Every beginning of a label that something follows is a node; node 0 is nothing written
    yet, and parents come before their children. A label's last token leads nowhere, so that it needs no node."""

    labels: Labels

    @cached_property
    def nodes(self) -> tuple[tuple[int, ...], ...]:
        """What has been written, node by node."""
        return tuple(dict.fromkeys(label[:length] for label in self.labels for length in range(len(label))))

    @cached_property
    def number(self) -> dict[tuple[int, ...], int]:
        return {written: number for number, written in enumerate(self.nodes)}

    @cached_property
    def depths(self) -> Tensor:
        """Tokens written, [N]."""
        return torch.tensor([len(written) for written in self.nodes])

    @cached_property
    def tokens(self) -> Tensor:
        """The last token written, [N - 1]: of all nodes but the first."""
        return torch.tensor([written[-1] for written in self.nodes[1:]], dtype=torch.long)

    @cached_property
    def ancestors(self) -> Tensor:
        """Whether column j is row i or lies on the way to it, [N, N]."""
        return torch.tensor([[node[: len(other)] == other for other in self.nodes] for node in self.nodes])

    @cached_property
    def ways(self) -> tuple[Tensor, Tensor]:
        """What may follow each node, and where that leads: tokens and destinations, [N, ways].

        A destination below N is a node, from there on a label, which ends so; the last one, behind all labels, is
        nowhere, for nodes with fewer ways than others.
        """
        follow: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        ends = [(label, len(self.nodes) + index) for index, label in enumerate(self.labels)]
        for written, destination in [*list(self.number.items())[1:], *ends]:
            follow[self.number[written[:-1]]].append((written[-1], destination))
        nowhere = (0, len(self.nodes) + len(self.labels))
        most = max(map(len, follow))
        table = torch.tensor([found + [nowhere] * (most - len(found)) for found in follow])
        return table[..., 0], table[..., 1]

    @cached_property
    def places(self) -> Tensor:
        """A label that begins with the node, and how far it has come there, [N, 2]."""
        found = {label[:step]: (index, step) for index, label in enumerate(self.labels) for step in range(len(label))}
        return torch.tensor([found[node] for node in self.nodes])

    def beginnings(self, first: int) -> Tensor:
        """Every label without its last token, behind ``first``, filled up to one length with it, [labels, steps]."""
        rows = [[first, *label[:-1]] for label in self.labels]
        width = max(map(len, rows))
        return torch.tensor([row + [first] * (width - len(row)) for row in rows])


@lru_cache(maxsize=64)
def tree_of(labels: Labels) -> LabelTree:
    """The labels' tree; the same one again for the same labels."""
    return LabelTree(labels)
