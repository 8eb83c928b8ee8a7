"""The batch at (seed, task, epoch, step), computed and never remembered, and how it is split into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from nacre.models.families import Encoded
from nacre.models.padding import least_padding
from nacre.seeds import derive


@dataclass(frozen=True)
class Batches:
    """The steps of a task. Each row occurs once an epoch, and an epoch's last step may be smaller.

    Attributes:
        rows: The task's encoded examples.
        seed: Of the order.
        where: Names the task in the seed's derivation.
        batch_size: Rows of one optimizer step.
        epochs: How often each row occurs.
    """

    rows: Sequence[Encoded]
    seed: int
    where: str
    batch_size: int
    epochs: int

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.rows), self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def indices(self, step: int) -> list[int]:
        """Which rows the step (from 0, over all epochs) takes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def at(self, step: int) -> list[Encoded]:
        """The step's rows; where training draws something of a row (masks), it is drawn anew in every epoch."""
        epoch = step // self.steps_per_epoch
        return [
            self.rows[index].with_fresh_masks(self.seed, "row", self.where, epoch, index)
            for index in self.indices(step)
        ]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.where, epoch))
        return torch.randperm(len(self.rows), generator=generator).tolist()


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """How many steps it takes to see every row once; the last one may see fewer than the others."""
    return -(-rows // batch_size)


def target_tokens(rows: Sequence[Encoded]) -> int:
    """How many tokens the rows ask for: what their summed loss is divided by."""
    return sum(row.num_target_tokens for row in rows)


def in_order(rows: Sequence[Encoded]) -> list[Encoded]:
    """A step's rows by length, the order in which one process computes them."""
    return sorted(rows, key=Encoded.length)


def in_micro_batches(rows: Sequence[Encoded], at_least: int, split_padding: int | None) -> list[Sequence[Encoded]]:
    """The rows, sorted by length, as runs of which each is computed at once.

    at_least: into so many runs of nearly equal size they are split in any case (fewer only if there are fewer rows).
    split_padding: each of them is split further where that saves more than this many tokens of padding for every
    micro-batch more; None: nowhere. Which rows make up the step is not touched, and the loss is a sum over its rows,
    so that the step stays the same but for rounding.
    """
    runs = split(in_order(rows), at_least)
    if split_padding is None:
        return runs
    return [run[part] for run in runs for part in least_padding([row.length() for row in run], split_padding)]


def as_many_micro_batches(
    own: Sequence[Encoded], all_rows: int, processes: int, at_least: int
) -> list[Sequence[Encoded]]:
    """A process's rows of a step as as many runs as every other process makes of its own.

    Args:
        own: Its share.
        all_rows: How many rows the step has in all processes, which share them out evenly.
        processes: How many there are.
        at_least: The wanted number of runs; there are fewer where a process has fewer rows.
    """
    return split(in_order(own), min(at_least, max(all_rows // processes, 1)))


def split(rows: Sequence[Encoded], parts: int) -> list[Sequence[Encoded]]:
    """Up to ``parts`` runs of nearly equal size, none of them empty."""
    parts = min(parts, len(rows))
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(bounds)]


@dataclass
class TokenCount:
    """How much a training computed on, and how much of that was padding.

    tokens: those of the rows, inputs and targets, over all steps. positions: with padding.
    """

    tokens: int = 0
    positions: int = 0

    def add(self, tokens: int, positions: int) -> None:
        self.tokens += tokens
        self.positions += positions
