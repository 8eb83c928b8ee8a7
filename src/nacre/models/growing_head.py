"""The class-incremental output layer of an encoder-only host: one head, which grows with every task's new labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

from torch import Tensor

from nacre.models.label_head import LabelHead
from nacre.tasks.task import Task


@final
class GrowingHead(LabelHead):
    """z = W x + b over all C classes seen so far: x [..., d] -> z [..., C].

    A class is a label string; its number is its index in `classes`, the order in which the labels were first seen.
    Tasks that share a label share its row. Only the rows of the newest tasks' labels are trained; the others are
    frozen, but they compete in the softmax. This is class-incremental learning, without task identity in training or
    at test; `TaskHeads` is the task-incremental variant.
    """

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Logits [..., C] of hidden states [..., d]; the rows' tasks do not matter."""
        return self.only_open(self.scores(x))

    def number(self, task: str, label: str) -> int | None:
        """The class of a label, whatever the task; None if no task learned so far has it."""
        return self.classes.index(label) if label in self.classes else None

    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str]) -> None:
        """Open the rows of these tasks' labels. Rehearsed tasks open nothing: a row's task is not known here."""
        self.grow([label for task in tasks for label in task.labels or ()], seed)

    def grow(self, labels: Sequence[str], seed: int) -> None:
        """Freeze all rows, add one for every label that is new, and train those of `labels`."""
        labels = tuple(dict.fromkeys(labels))
        self.add([label for label in labels if label not in self.classes], seed)
        self.open([self.classes.index(label) for label in labels])

    def drop(self, labels: Collection[str]) -> None:
        """Take the rows of these labels out."""
        kept = [number for number, label in enumerate(self.classes) if label not in labels]
        tensors = {name: tensor[kept] for name, tensor in self.tensors().items()}
        classes = [self.classes[number] for number in kept]
        newest = [kept.index(number) for number in self.newest.tolist() if number in kept]
        self.load(*(({}, {}) if not classes else (tensors, {"classes": classes, "newest": newest})))

    def values(self) -> dict[str, Any]:
        """The label of each row and the numbers of the newest; nothing before the first task."""
        return self.row_values()

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `values` gave, bit for bit. Nothing is trainable then."""
        self.load_rows(tensors, values)
