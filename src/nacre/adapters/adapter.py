"""The base of all adapters: settings that can be placed in a host, and a placed adapter that grows with tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from nacre.adapters.route import Route
from nacre.errors import ModelError
from nacre.models.owner import ParameterGroup

if TYPE_CHECKING:
    from nacre.adapters.slots_on_disk import SlotsOnDisk
    from nacre.adapters.unit_gates import HardGates


@final
@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A trained linear map whose output features can be told apart: a feature is one output with its parameters.

    Attributes:
        name: Dotted, unique in the host.
        place: Name of the host's linear map that it is or belongs to.
        roles: Those of that map (`models/roles`), () if unknown.
        module: The module whose output [..., features] is measured.
        parameters: Each with the axis along which slice j belongs to feature j.
        input_of: Where the module is not called itself while the host computes: the module whose input it reads.
    """

    name: str
    place: str
    roles: tuple[str, ...]
    module: nn.Module
    parameters: tuple[tuple[nn.Parameter, int], ...]
    input_of: nn.Module | None = None

    @property
    def features(self) -> int:
        """Number of output features."""
        parameter, axis = self.parameters[0]
        return parameter.shape[axis]


@dataclass(frozen=True)
class Adapter(ABC):
    """Settings of an adapter: what is trainable, and how the tasks' parameters combine. It holds no tensor."""

    learning_rate: ClassVar[float]
    """The rate that is used when the recipe names none."""

    sum_gated: ClassVar[bool]
    """Whether the tasks' updates are simply added, so that they can be folded into the host's weights."""

    has_virtual_tokens: ClassVar[bool] = False
    """Whether something stands in front of an input (`PlacedAdapter.virtual_tokens`)."""

    trains_maps: ClassVar[bool] = True
    """Whether its parameters are rows of linear maps, whose outputs are features (`PlacedAdapter.feature_maps`)."""

    @property
    def copied_by_task(self) -> bool:
        """Whether a copy of the host can be made of what answers one task alone (`adapters/merged`)."""
        return False

    @property
    def weighable(self) -> bool:
        """Whether there is a slot for each task, among which a route may choose row by row, or weight them."""
        return False

    @property
    def can_stay_on_disk(self) -> bool:
        """Whether what is loaded may leave earlier tasks' slots in their files until they answer (`PlacedSites`)."""
        return False

    @property
    def virtual_tokens_behind(self) -> bool:
        """Whether they stand behind an input instead."""
        return False

    @property
    @abstractmethod
    def grows(self) -> bool:
        """Whether what is stored grows with the number of tasks."""

    @property
    def needs_task_at_test(self) -> bool:
        """Whether an input must come with its task, in training and at test."""
        return False

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """The names of its parameter groups, as `PlacedAdapter.parameter_groups` gives them."""

    def gated(self, gates: HardGates) -> Adapter | None:
        """The same adapter with a gate for each task on each of its units; None if tasks share no units in it.

        What it places is a `GatedUnits` (`adapters/unit_gates`), which names the gates and the parameters at each unit.

        Args:
            gates: The gates' settings.
        """
        return None

    @abstractmethod
    def place(self, model: nn.Module) -> PlacedAdapter:
        """Put the adapter into the host. Until `grow` is called, the host computes exactly what it did.

        Args:
            model: The host's body.

        Raises:
            ModelError: There is nothing in this host that the adapter could train. The host is then unchanged.
        """


class PlacedAdapter(ABC):
    """An adapter in its host: an `Owner` (`models/owner`) of every trainable tensor.

    Attributes:
        model: The host.
        tasks: Number of slots that have been opened.
        on_disk: Earlier tasks' slots that stay in files until they answer; None: all are in memory.
        trained_before: Every parameter of the host, and whether its owner let it be trained.
    """

    def __init__(self, model: nn.Module) -> None:
        """Freeze the host.

        Args:
            model: The host's body.
        """
        self.model = model
        self.tasks = 0
        self.on_disk: SlotsOnDisk | None = None
        self.trained_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.requires_grad_(False)

    @abstractmethod
    def grow(self) -> bool:
        """Open the slot of one more task; earlier slots freeze. True if new tensors want a start (`parts/start`)."""

    @abstractmethod
    def fresh(self, seed: int) -> None:
        """Fill the newest slot with its usual random values; each tensor's own seed is derived from `seed`."""

    def take(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Put LoRAs that were trained elsewhere into the newest slot.

        Args:
            factors: A [r, d_in] and B [d_out, r] of every linear map, by its name; the scale is the adapter's.

        Raises:
            ModelError: They do not fit this adapter.
        """
        raise ModelError("This method's slots hold no LoRA; inc_lora takes one that was trained elsewhere.")

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters that are trained for the newest task."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, by public name; the tensors themselves, detached, not copies."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `tensors` and `values` gave, bit for bit.

        Args:
            tensors: By public name; empty, with empty values, to forget everything.
            values: Those that say what the tensors are.

        Raises:
            CheckpointError: They do not fit this host and adapter.
        """

    @abstractmethod
    def freeze(self) -> None:
        """Make nothing trainable, as it is between tasks."""

    @abstractmethod
    def bypassed(self) -> AbstractContextManager[None]:
        """While open, the host computes exactly what the bare pretrained host computes, bit for bit. Can be nested."""

    def aside(self) -> AbstractContextManager[None]:
        """While open, another adapter may be placed in the host: what is learned has no part in what it computes.

        Whatever replaces linear maps makes way for it, so that the maps have their own places and names.
        """
        return self.bypassed()

    def drop(self, slot: int) -> None:
        """Take a task's slot out, as if it had never been opened; the others keep their bits and their order.

        Args:
            slot: Its number, from 0.

        Raises:
            ModelError: The tasks' parameters do not lie apart here.
        """
        raise ModelError("This adapter keeps what its tasks have learned in one place: none of them can be taken out.")

    @abstractmethod
    def use(self, route: Route) -> AbstractContextManager[None]:
        """While open, each row of a batch is answered by the parameters that the route names.

        A model may read a batch's rows several times side by side: then row i stands in k places, from i * k on.

        Args:
            route: The parameters for each row.

        Raises:
            ModelError: The adapter cannot follow such a route, or, once the host computes, it does not fit the batch.
        """

    @abstractmethod
    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        """The ids in front of the inputs of a task; they lie behind the host's vocabulary.

        Only the embedding of the stack that reads knows these ids.

        Args:
            number: The task's, from 1.

        Returns:
            The ids; () in most adapters.
        """

    @abstractmethod
    def pristine(self) -> dict[str, Tensor]:
        """The bare host's tensors by its own names, as `state_dict` gave them before `place`.

        They are copies only where that is necessary.
        """

    @abstractmethod
    def take_out(self) -> None:
        """Give the host its own modules and values back, bit for bit."""

    @final
    def remove(self) -> None:
        """Give the host back as it was before `place`, bit for bit, every `requires_grad` included."""
        self.take_out()
        for parameter, trained in self.trained_before:  # a quantized weight cannot be trained, and was not
            parameter.requires_grad_(trained)

    @final
    def values(self) -> dict[str, Any]:
        """Plain values that say what `tensors` are: `slots`, the number that have been opened."""
        return {"slots": self.tasks}

    @abstractmethod
    def feature_maps(self) -> list[FeatureMap]:
        """The linear maps that are trained for the newest task, feature by feature; an adapter may have none.

        Raises:
            ModelError: They cannot be told from the host's other parameters.
        """

    @abstractmethod
    def folding_summary(self) -> dict[str, Any]:
        """A summary of the working weights that earlier tasks' updates are added to.

        Returns:
            Plain values, none if there is nothing to fold. `sites`: number of sites; `folded`: number of those that
            have such a weight; `obstacles`: why the others have none; `ratios`: the smallest and the largest size of
            the updates in multiples of their weight's, None if unknown.
        """

    @final
    def stored_parameters(self) -> int:
        """Number of entries of all `tensors`."""
        return sum(tensor.numel() for tensor in self.tensors().values())


def kaiming_uniform(shape: torch.Size, seed: int) -> Tensor:
    """The usual start of a dense layer: uniform in `+-1/sqrt(d_in)` (Kaiming with a = sqrt(5)).

    Drawn on the CPU in float32, so that a seed gives the same numbers on every device and in every precision.

    Args:
        shape: [d_out, d_in].
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = shape[-1] ** -0.5
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
