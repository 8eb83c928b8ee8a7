"""Owners: whoever holds learned tensors in a host.

Saving, loading, freezing, counting and removing are one loop each over a learner's owners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained together, under the name that the table of trainable parameters prints.

    Attributes:
        name: What the table, penalties and messages call the group.
        parameters: The trained tensors.
        rate: Their learning rate is this times the task's, whatever the schedule.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0

    @property
    def size(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters)


class Owner(Protocol):
    """An adapter, a classification head, a routing: each owns the tensors it has learned."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained for the newest task; empty between learners' tasks or before the first one."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, by public name: the tensors themselves, detached, not copies."""
        ...

    def values(self) -> dict[str, Any]:
        """Plain values (JSON) that say what `tensors` are, such as slots or class names."""
        ...

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `values` gave, bit for bit. From two empty mappings: forget everything.

        Raises:
            CheckpointError: If they do not fit this host and method.
        """
        ...

    def freeze(self) -> None:
        """Between tasks nothing is trainable."""
        ...

    def remove(self) -> None:
        """Give the host back as it was before this owner came, bit for bit, every `requires_grad` included."""
        ...


def stop_training(groups: list[ParameterGroup]) -> None:
    """Make the groups' parameters constants without gradients."""
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
