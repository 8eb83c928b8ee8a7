"""No adapter: the host stays as it is, for methods that answer from evidence of their own (`parts/part.Readout`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, FeatureMap, PlacedAdapter
from nacre.adapters.route import Route
from nacre.errors import ModelError
from nacre.models.fit import check_fit, count_of
from nacre.models.owner import ParameterGroup


@final
@dataclass(frozen=True)
class NoAdapter(Adapter):
    """Nothing of the host is trained; a task takes no optimizer step unless another owner has parameters."""

    learning_rate: ClassVar[float] = 1e-3
    sum_gated: ClassVar[bool] = False

    @property
    def grows(self) -> bool:
        return False

    @property
    def groups(self) -> tuple[str, ...]:
        return ()

    def place(self, model: nn.Module) -> PlacedNothing:
        return PlacedNothing(model)


@final
class PlacedNothing(PlacedAdapter):
    """The untouched host, which counts its tasks."""

    def grow(self) -> bool:
        self.tasks += 1
        return False

    def fresh(self, seed: int) -> None:
        """There is nothing to fill."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        check_fit("adapter", tensors, {})
        self.tasks = count_of("adapter", values, "slots")

    def freeze(self) -> None:
        """There is nothing to freeze."""

    def bypassed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def use(self, route: Route) -> AbstractContextManager[None]:
        raise ModelError("Without an adapter there is nothing that a route could choose from.")

    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        return ()

    def pristine(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def take_out(self) -> None:
        """There is nothing to take out."""

    def feature_maps(self) -> list[FeatureMap]:
        return []

    def folding_summary(self) -> dict[str, Any]:
        return {}
