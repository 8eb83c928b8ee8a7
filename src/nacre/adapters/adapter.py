"""What every adapter is: settings that can be placed in a host, and, once placed, a thing that grows with tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nacre.models.owner import ParameterGroup


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A trained linear map whose output features can be told apart: a feature is one output and what computes it.

    name: dotted, unique in the host. place: of the host's linear map that it is or belongs to. roles: of that map
    (``models/roles``), () if unknown. module: its output [..., features] is what is measured. parameters: with the axis
    along which slice j belongs to feature j.
    input_of: where the module is not called itself while the host computes: the module whose input it reads.
    """

    name: str
    place: str
    roles: tuple[str, ...]
    module: nn.Module
    parameters: tuple[tuple[nn.Parameter, int], ...]
    input_of: nn.Module | None = None

    @property
    def features(self) -> int:
        parameter, axis = self.parameters[0]
        return parameter.shape[axis]


@dataclass(frozen=True)
class Adapter(ABC):
    """Settings of an adapter: what is trainable, and how the tasks' parameters combine. Holds no tensor."""

    learning_rate: ClassVar[float]
    """The rate that is used when the recipe names none."""

    sum_gated: ClassVar[bool]
    """Whether the tasks' updates are simply added, so that they can be folded into the host's weights."""

    grows: ClassVar[bool]
    """Whether what is stored grows with the number of tasks."""

    groups: ClassVar[tuple[str, ...]]
    """The names of its parameter groups, as ``PlacedAdapter.parameter_groups`` gives them."""

    @abstractmethod
    def place(self, model: nn.Module) -> PlacedAdapter:
        """Put the adapter into the host. Until ``grow`` is called the host computes exactly what it did."""


class PlacedAdapter(ABC):
    """An adapter in its host. It owns every trainable tensor: nothing is found by its name."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tasks = 0  # how many slots have been opened
        for parameter in model.parameters():
            parameter.requires_grad_(False)

    @abstractmethod
    def grow(self) -> bool:
        """Open the slot of one more task; earlier slots freeze. True if new tensors want a start (``parts/start``)."""

    @abstractmethod
    def fresh(self, seed: int) -> None:
        """Fill the newest slot with its usual random values; each tensor's own seed is derived from ``seed``."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained for the newest task."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learnt, by public name; the tensors themselves, detached, not copies."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor], tasks: int) -> None:
        """Take over what ``tensors`` gave after ``tasks`` tasks, bit for bit."""

    @abstractmethod
    def remove(self) -> None:
        """Give the host back as it was before ``place``, bit for bit."""

    def feature_maps(self) -> list[FeatureMap]:
        """The linear maps that are trained for the newest task, feature by feature; an adapter may have none.

        Raises ``ModelError`` if they cannot be told from the host's other parameters.
        """
        return []

    def folding_summary(self) -> dict[str, Any]:
        """What there is to say about working weights that earlier tasks' updates are added to, as plain values:
        sites, folded: how many there are, and how many have one. obstacles: why others have none. ratios: the smallest
        and the largest size of the updates in multiples of their weight's, None if unknown. {} if there is nothing to
        fold."""
        return {}

    def freeze(self) -> None:
        """Between tasks nothing is trainable."""
        for group in self.parameter_groups():
            for parameter in group.parameters:
                parameter.requires_grad_(False)
                parameter.grad = None

    def stored_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors().values())


def kaiming_uniform(shape: torch.Size, seed: int) -> Tensor:
    """The usual start of a dense layer [d_out, d_in]: uniform in +-1/sqrt(d_in) (Kaiming with a = sqrt(5)).

    Drawn on the CPU in float32, so that a seed gives the same numbers on every device and in every precision.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = shape[-1] ** -0.5
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
