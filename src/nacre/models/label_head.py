"""Output layers over labels: one row a class, of which only the newest tasks' are trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nacre.models.fit import Form
from nacre.seeds import derive
from nacre.tasks.task import Task


class LabelHead(nn.Module, ABC):
    """z = W x + b over all C classes seen so far: x [..., d] -> z [..., C].

    Of W [C, d] and b [C] only some rows are trained; the others are buffers, frozen bit for bit.

    Why not RoBERTa's own head (dropout, dense, tanh, dropout, linear): its dense layer is shared by all classes, so
    that training it on a new task would move the answers of the frozen rows. Here the host and the method's adapter
    alone decide what tasks share.

    Attributes:
        classes: The label of each row, in the order in which they were added.
        frozen_weight: [C, d]; the rows that are being trained are stale in it.
        frozen_bias: [C].
        newest: [k]; the numbers of the classes that are trained.
        trained_weight: [k, d].
        trained_bias: [k].
        open_classes: [B, C] of bool; which classes may answer each row of the batch; None: all.
    """

    frozen_weight: Tensor
    frozen_bias: Tensor
    newest: Tensor
    trained_weight: nn.Parameter
    trained_bias: nn.Parameter

    def __init__(self, d: int, like: Tensor) -> None:
        """A head without classes.

        Args:
            d: Width of the hidden states.
            like: A tensor of the host, whose device is taken; the head has at least float32, whatever the host has.
        """
        super().__init__()
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        self.classes: list[str] = []
        self.register_buffer("frozen_weight", torch.zeros(0, d, dtype=dtype, device=like.device))
        self.register_buffer("frozen_bias", torch.zeros(0, dtype=dtype, device=like.device))
        self.register_buffer("newest", torch.zeros(0, dtype=torch.long, device=like.device))
        self.open_classes: Tensor | None = None
        self._train_rows([])

    @abstractmethod
    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Logits of the classes.

        Args:
            x: First tokens' hidden states [B, d].
            tasks: The number of each row's task [B], for heads that need it.

        Returns:
            Logits [B, C].
        """

    @abstractmethod
    def number(self, task: str, label: str) -> int | None:
        """The class of a task's label; None if no task learned so far has it."""

    @abstractmethod
    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str]) -> None:
        """Open the rows of these tasks' labels, adding those that are new.

        Args:
            tasks: The tasks about to be learned.
            seed: The run's.
            rehearsed: Earlier tasks of which rows are learned again.
        """

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """What the rows of `tensors` are, and which are the newest; nothing before the first task."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `values` gave, bit for bit. Nothing is trainable then."""

    @property
    def weight(self) -> Tensor:
        """W [C, d]; gradients reach the trained rows only."""
        return self.frozen_weight.index_copy(0, self.newest, self.trained_weight)

    @property
    def bias(self) -> Tensor:
        """b [C]."""
        return self.frozen_bias.index_copy(0, self.newest, self.trained_bias)

    def scores(self, x: Tensor) -> Tensor:
        """W x + b: [..., d] -> [..., C]."""
        return F.linear(x.to(self.trained_weight.dtype), self.weight, self.bias)

    def only_open(self, scores: Tensor) -> Tensor:
        """The scores [B, C], -inf where a class is not open to a row (`only`)."""
        return scores if self.open_classes is None else scores.masked_fill(~self.open_classes, -math.inf)

    @contextmanager
    def only(self, classes: Tensor | None) -> Iterator[None]:
        """While open, only these classes may answer: classes [B, C] of bool, None for all."""
        before, self.open_classes = self.open_classes, classes
        try:
            yield
        finally:
            self.open_classes = before

    def trained(self) -> tuple[nn.Parameter, ...]:
        """The rows of the newest tasks' classes; nothing before the first task."""
        return (self.trained_weight, self.trained_bias) if self.classes else ()

    def tensors(self) -> dict[str, Tensor]:
        """W and b, detached; nothing before the first task."""
        return {"weight": self.weight.detach(), "bias": self.bias.detach()} if self.classes else {}

    def add(self, labels: Sequence[str], seed: int) -> None:
        """Add a row for each of the labels, behind the others.

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

    def open(self, numbers: Sequence[int]) -> None:
        """Train the rows of these classes, and no others."""
        self._train_rows(numbers)
        for parameter in self.trained():
            parameter.requires_grad_(True)

    def row_values(self) -> dict[str, Any]:
        """The label of each row and the numbers of the newest; nothing before the first task."""
        return {"classes": list(self.classes), "newest": self.newest.tolist()} if self.classes else {}

    def forms(self, classes: int) -> dict[str, Form]:
        """What `tensors` gives with so many classes."""
        width, dtype = self.frozen_weight.shape[1], self.frozen_weight.dtype
        return {"weight": Form((classes, width), dtype), "bias": Form((classes,), dtype)} if classes else {}

    def load_rows(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `row_values` gave, bit for bit. Nothing is trainable then."""
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
