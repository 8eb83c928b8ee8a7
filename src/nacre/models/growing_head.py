"""The output layer of an encoder-only host: one row a class, and new rows for every task's new labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nacre.seeds import derive
from nacre.tasks.task import Task


class GrowingHead(nn.Module):
    """z = W x + b over all C classes seen so far: x [..., d] -> z [..., C].

    A class is a label string; its number is its place in ``classes``, the order in which the labels were first seen.
    Tasks that share a label share its row. Of W [C, d] and b [C] only the rows of the newest tasks' labels are trained;
    the others are buffers, frozen bit for bit, but they compete in the softmax: nobody says to which task a text
    belongs, neither in training nor at test. (Where somebody does: ``TaskHeads``.)

    Why not RoBERTa's own head (dropout, dense, tanh, dropout, linear): its dense layer is shared by all classes, so
    that training it on a new task would move the answers of the frozen rows. Here the host and the method's adapter
    alone decide what tasks share.
    """

    frozen_weight: Tensor  # [C, d]; the rows that are being trained are stale in it
    frozen_bias: Tensor  # [C]
    newest: Tensor  # [k]: the numbers of the classes that are trained
    trained_weight: nn.Parameter  # [k, d]
    trained_bias: nn.Parameter  # [k]

    def __init__(self, d: int, like: Tensor) -> None:
        """like: a tensor of the host, whose device is taken; the head has at least float32, whatever the host has."""
        super().__init__()
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        self.classes: list[str] = []
        self.register_buffer("frozen_weight", torch.zeros(0, d, dtype=dtype, device=like.device))
        self.register_buffer("frozen_bias", torch.zeros(0, dtype=dtype, device=like.device))
        self.register_buffer("newest", torch.zeros(0, dtype=torch.long, device=like.device))
        self._train_rows([])

    @property
    def weight(self) -> Tensor:
        """W [C, d]; gradients reach the trained rows only."""
        return self.frozen_weight.index_copy(0, self.newest, self.trained_weight)

    @property
    def bias(self) -> Tensor:
        """b [C]."""
        return self.frozen_bias.index_copy(0, self.newest, self.trained_bias)

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:  # [..., d] -> [..., C]
        """tasks: which task each row is of; told to ``TaskHeads`` only."""
        return F.linear(x.to(self.trained_weight.dtype), self.weight, self.bias)

    def trained(self) -> tuple[nn.Parameter, ...]:
        """The rows of the newest tasks' classes; nothing before the first task."""
        return (self.trained_weight, self.trained_bias) if self.classes else ()

    def number(self, task: str, label: str) -> int | None:
        """The class of a label, whatever the task; None if no task learnt so far has it."""
        return self.classes.index(label) if label in self.classes else None

    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str]) -> None:
        """Open the rows of these tasks' labels. rehearsed: earlier tasks of which rows are learnt again. They open
        nothing here: nobody says to which task a row belongs."""
        self.grow([label for task in tasks for label in task.labels or ()], seed)

    def grow(self, labels: Sequence[str], seed: int) -> None:
        """Freeze all rows, add one for every label that is new, and train those of ``labels``."""
        labels = tuple(dict.fromkeys(labels))
        self._add([label for label in labels if label not in self.classes], seed)
        self._open([self.classes.index(label) for label in labels])

    def _add(self, labels: Sequence[str], seed: int) -> None:
        """A row for each of the labels, behind the others.

        A new row begins as in a dense layer: uniform in +-1/sqrt(d) (Kaiming with a = sqrt(5)), its bias at zero. Rows
        of zeros would send no gradient into the host in a stream's first step, and starts that read gradients would
        see nothing. A row is drawn from the seed and its own label, so that neither the order of the tasks nor the
        other classes matter to it.
        """
        fresh = [_row(self.frozen_weight.shape[1], derive(seed, "class", label)) for label in labels]
        weight, bias = self.weight.detach(), self.bias.detach()
        self.frozen_weight = torch.cat([weight, *(row.to(weight) for row in fresh)])
        self.frozen_bias = torch.cat([bias, bias.new_zeros(len(labels))])
        self.classes += labels

    def _open(self, numbers: Sequence[int]) -> None:
        """Train these rows, and no others."""
        self._train_rows(numbers)
        for parameter in self.trained():
            parameter.requires_grad_(True)

    def tensors(self) -> dict[str, Tensor]:
        """W and b, detached; nothing before the first task."""
        return {"weight": self.weight.detach(), "bias": self.bias.detach()} if self.classes else {}

    def values(self) -> dict[str, Any]:
        """What the rows of ``tensors`` are, and which are the newest; nothing before the first task."""
        return {"classes": list(self.classes), "newest": self.newest.tolist()} if self.classes else {}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what ``tensors`` and ``values`` gave, bit for bit. Nothing is trainable then."""
        self.classes = list(values.get("classes", ()))
        self.frozen_weight = tensors["weight"].to(self.frozen_weight) if self.classes else self.frozen_weight[:0]
        self.frozen_bias = tensors["bias"].to(self.frozen_bias) if self.classes else self.frozen_bias[:0]
        self._train_rows(values.get("newest", ()))

    def _train_rows(self, numbers: Sequence[int]) -> None:
        self.newest = torch.tensor(numbers, dtype=torch.long, device=self.frozen_weight.device)
        self.trained_weight = nn.Parameter(self.frozen_weight[self.newest], requires_grad=False)
        self.trained_bias = nn.Parameter(self.frozen_bias[self.newest], requires_grad=False)


def _row(d: int, seed: int) -> Tensor:
    """Drawn on the CPU in float32, so that a seed gives the same numbers on every device and in every precision."""
    generator = torch.Generator().manual_seed(seed)
    return nn.init.kaiming_uniform_(torch.empty(1, d), a=5**0.5, generator=generator)
