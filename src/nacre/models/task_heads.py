"""The output layer of an encoder-only host that is told each row's task: a head for every task, over its own labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nacre.errors import DataError
from nacre.models.growing_head import GrowingHead
from nacre.tasks.task import Task


class TaskHeads(GrowingHead):
    """z_c = w_c x + b_c for the classes c of the row's own task, -inf for all others: x [B, d] -> z [B, C].

    So the softmax is over the labels of the row's task alone, in training and at test: task-incremental learning with
    several heads, where somebody must say to which task a text belongs. A class is a label of a task; tasks that
    share a label string have a row each, which begin alike (``GrowingHead``: drawn from the seed and the label) and
    then go their own ways. All heads lie side by side in one W [C, d], in the order in which the tasks were learnt.

    Trained are the heads of the newest tasks and those of earlier tasks of which rows are learnt again; all others are
    frozen bit for bit.
    """

    owners: Tensor  # [C]: the number of each class's task

    def __init__(self, d: int, like: Tensor) -> None:
        super().__init__(d, like)
        self.register_buffer("owners", torch.zeros(0, dtype=torch.long, device=like.device))
        self._own([])

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:  # [B, d] -> [B, C]
        """tasks [B]: the number of each row's task, from ``place``."""
        if tasks is None:
            raise DataError("With head=per_task the model must be given the rows' tasks, as family.prompts does.")
        return super().forward(x).masked_fill(self.owners != tasks[:, None], -math.inf)

    def place(self, task: str) -> int:
        """The number of a task: its place among those with a head; -1 of one without, to which no class belongs."""
        known = list(dict.fromkeys(self.tasks))
        return known.index(task) if task in known else -1

    def number(self, task: str, label: str) -> int | None:
        """The class of a label in the head of its task; None if there is none."""
        classes = list(zip(self.tasks, self.classes, strict=True))
        return classes.index((task, label)) if (task, label) in classes else None

    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str]) -> None:
        """Open these tasks' heads, new ones or those they have, and the heads of the rehearsed ones."""
        newest: list[int] = []
        for task in tasks:
            labels = tuple(dict.fromkeys(task.labels or ()))
            new = [label for label in labels if self.number(task.name, label) is None]
            self._add(new, seed)
            self._own([*self.tasks, *([task.name] * len(new))])
            newest += [number for label in labels if (number := self.number(task.name, label)) is not None]
        earlier = [number for number, task in enumerate(self.tasks) if task in rehearsed and number not in newest]
        self._open(newest + earlier)

    def values(self) -> dict[str, Any]:
        return super().values() | ({"tasks": list(self.tasks)} if self.classes else {})

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        super().load(tensors, values)
        self._own(values.get("tasks", ()))

    def _own(self, tasks: Sequence[str]) -> None:
        """tasks: whose each class is, [C]."""
        self.tasks = list(tasks)
        numbers = [self.place(task) for task in self.tasks]
        self.owners = torch.tensor(numbers, dtype=torch.long, device=self.frozen_weight.device)
