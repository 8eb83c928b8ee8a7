"""A batch: rows as tensors, and whose rows they are, which a router may ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class RowOfTask(Protocol):
    """Whose row something is (`nacre.models.families.Encoded`)."""

    @property
    def task(self) -> str:
        """The task's name, "" where nobody gave it."""
        ...

    @property
    def bare(self) -> str | None:
        """The text before any template, None where nobody gave it."""
        ...


@dataclass(frozen=True, eq=False)
class Batch(Mapping[str, Tensor]):
    """Rows as tensors. As a mapping it holds the tensors alone, so that `model(**batch)` reads nothing else.

    Attributes:
        tensors: By name: `input_ids` and `attention_mask` [B, S], and what the family adds for training.
        task_names: The task of each of the B rows, "" where nobody gave it. They never reach the model.
        texts: Each row's text before any template, None where nobody gave it; () where nobody gave any. Nor do they.
    """

    tensors: Mapping[str, Tensor]
    task_names: tuple[str, ...]
    texts: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[RowOfTask], tensors: Mapping[str, Tensor]) -> Batch:
        """The batch of these rows, which are these tensors."""
        return cls(tensors, tuple(row.task for row in rows), tuple(row.bare for row in rows))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def size(self) -> int:
        """The number of rows B."""
        return len(self.task_names)

    def extended(self, **tensors: Tensor) -> Batch:
        """The batch with more tensors."""
        return replace(self, tensors={**self.tensors, **tensors})

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def rows(self, start: int, stop: int) -> Batch:
        """The rows from `start` to before `stop`, of a batch whose tensors all have a row for each."""
        tensors = {name: tensor[start:stop] for name, tensor in self.tensors.items()}
        return Batch(tensors, self.task_names[start:stop], self.texts[start:stop])

    def taken(self, numbers: Sequence[int]) -> Batch:
        """The rows with these numbers, of a batch whose tensors all have a row for each."""
        own = list(numbers)
        tensors = {name: tensor[own] for name, tensor in self.tensors.items()}
        texts = tuple(self.texts[number] for number in own) if self.texts else ()
        return Batch(tensors, tuple(self.task_names[number] for number in own), texts)


class Router(Protocol):
    """Decides which parameters answer a batch, before the model reads it. See `Family.routed`."""

    def route(self, batch: Batch) -> AbstractContextManager[None]:
        """A context in which the model reads the batch with the chosen parameters.

        It is entered once for each batch, in training and at test alike. Inside, the model may read every row several
        times side by side, label by label: then row i stands in k places, from i * k on.

        Args:
            batch: On the model's device. In a decoder-only host's training batch, `input_ids` also hold the target,
                where `labels` are not `IGNORED`.
        """
        ...
