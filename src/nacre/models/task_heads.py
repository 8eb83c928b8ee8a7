"""The task-incremental output layer of an encoder-only host: a head for every task, over its own labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from nacre.errors import DataError
from nacre.models.label_head import LabelHead
from nacre.tasks.task import Task


@final
class TaskHeads(LabelHead):
    """z_c = w_c x + b_c for the classes c of the row's own task, -inf for all others: x [B, d] -> z [B, C].

    So the softmax is over the labels of the row's task alone, in training and at test: task-incremental learning with
    several heads, where each text's task is given. A class is a label of a task; tasks that share a label string have
    a row each, which begin alike (`LabelHead.add`: drawn from the seed and the label) and then diverge. All heads lie
    side by side in one W [C, d], in the order in which the tasks were learned.

    Trained are the heads of the newest tasks and those of earlier tasks of which rows are learned again; all others are
    frozen bit for bit.

    Attributes:
        tasks: The task of each class.
        task_numbers: Its number [C], by which `forward` compares.
    """

    task_numbers: Tensor

    def __init__(self, d: int, like: Tensor) -> None:
        """Heads without classes; see `LabelHead`."""
        super().__init__(d, like)
        self.register_buffer("task_numbers", torch.zeros(0, dtype=torch.long, device=like.device))
        self._assign([])

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Logits [B, C] of hidden states [B, d], -inf outside of each row's own head.

        Args:
            x: Hidden states [B, d].
            tasks: The number of each row's task [B], from `task_number`.

        Raises:
            DataError: Without tasks.
        """
        if tasks is None:
            raise DataError("With head=per_task the model must be given the rows' tasks, as family.prompts does.")
        own = self.scores(x).masked_fill(self.task_numbers != tasks[:, None], -math.inf)
        return self.only_open(own)

    def task_number(self, task: str) -> int:
        """The number of a task among those with a head; -1 of one without, to which no class belongs."""
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
            self.add(new, seed)
            self._assign([*self.tasks, *([task.name] * len(new))])
            newest += [number for label in labels if (number := self.number(task.name, label)) is not None]
        earlier = [number for number, task in enumerate(self.tasks) if task in rehearsed and number not in newest]
        self.open(newest + earlier)

    def values(self) -> dict[str, Any]:
        """The label and the task of each row, and the numbers of the newest; nothing before the first task."""
        return self.row_values() | ({"tasks": list(self.tasks)} if self.classes else {})

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `values` gave, bit for bit. Nothing is trainable then."""
        self.load_rows(tensors, values)
        self._assign(values.get("tasks", ()))

    def _assign(self, tasks: Sequence[str]) -> None:
        """Say of which task each class is, [C]."""
        self.tasks = list(tasks)
        numbers = [self.task_number(task) for task in self.tasks]
        self.task_numbers = torch.tensor(numbers, dtype=torch.long, device=self.frozen_weight.device)
