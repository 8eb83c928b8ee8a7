"""Adapters that are out of the host: of each, what it has learned, until somebody places one to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.errors import CheckpointError
from nacre.models.fit import count_of
from nacre.models.owner import ParameterGroup


@final
class KeptAdapters:
    """Adapters of one kind, each with a single slot: an `Owner` of tensors that are trained elsewhere.

    They lie on the CPU.
    """

    def __init__(self, model: nn.Module, adapter: PlacedAdapter, settings: Adapter) -> None:
        """Begin with none.

        Args:
            model: The host's body.
            adapter: What is in the host, and makes way where one is placed.
            settings: Those of each.
        """
        self._model, self._adapter, self._settings = model, adapter, settings
        self._stacks: dict[str, Tensor] = {}  # by public name, [n, ...]
        self._count = 0

    def __len__(self) -> int:
        """Number of adapters."""
        return self._count

    def append(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep one more.

        Args:
            tensors: As a placed adapter gives them.
        """
        new = {name: tensor.detach().cpu()[None] for name, tensor in tensors.items()}
        self._stacks = {
            name: torch.cat([self._stacks[name], each]) if self._count else each.clone() for name, each in new.items()
        }
        self._count += 1

    def put_into(self, placed: PlacedAdapter, number: int) -> None:
        """Let a placed adapter of this kind be the one with this number, from 0."""
        placed.load({name: stack[number] for name, stack in self._stacks.items()}, {"slots": 1})

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `Owner`: nothing is trained here."""
        return []

    def tensors(self) -> dict[str, Tensor]:
        """See `Owner`."""
        return dict(self._stacks)

    def values(self) -> dict[str, Any]:
        """See `Owner`."""
        return {"adapters": self._count}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See `Owner`. Each one is placed in the host once: what fits there is right."""
        count = count_of("memory", values, "adapters")
        if (short := next((name for name, stack in tensors.items() if stack.shape[:1] != (count,)), None)) is not None:
            raise CheckpointError(
                f"The saved memory does not fit this model and method: '{short}' is {list(tensors[short].shape)}, and "
                f"it is to hold {count} adapters."
            )
        before = self._stacks, self._count
        self._stacks, self._count = {name: stack.detach().cpu().clone() for name, stack in tensors.items()}, count
        try:
            self._try()
        except CheckpointError:
            self._stacks, self._count = before
            raise

    def freeze(self) -> None:
        """See `Owner`: nothing is trained here."""

    def remove(self) -> None:
        """See `Owner`."""
        self._stacks, self._count = {}, 0

    def _try(self) -> None:
        if self._count == 0:
            return
        with self._adapter.aside():
            placed = self._settings.place(self._model)
            try:
                for number in range(self._count):
                    self.put_into(placed, number)
            finally:
                placed.remove()
