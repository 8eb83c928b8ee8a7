"""The batch at (seed, task, epoch, step), computed and never remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nacre.models.families import Encoded
from nacre.seeds import derive


@dataclass(frozen=True)
class Batches:
    """rows: a task's encoded examples. where: names the task in the seed's derivation. batch_size: rows of one
    optimizer step; each row occurs once an epoch, and an epoch's last step may be smaller."""

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
        return [self.rows[index].drawn(self.seed, "row", self.where, epoch, index) for index in self.indices(step)]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.where, epoch))
        return torch.randperm(len(self.rows), generator=generator).tolist()


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """How many steps it takes to see every row once; the last one may see fewer than the others."""
    return -(-rows // batch_size)


def target_tokens(rows: Sequence[Encoded]) -> int:
    """How many tokens the rows ask for: what their summed loss is divided by."""
    return sum(row.asked for row in rows)
