"""SAPT: one attention over task keys weights all tasks' LoRAs, and is held where earlier tasks left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, PlacedAdapter, kaiming_uniform
from nacre.adapters.route import Route
from nacre.adapters.site import put_beside
from nacre.errors import RecipeError
from nacre.functional.shared_attention import attention_scores
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import LearnerView, Reading, Routing
from nacre.parts.task_keys import TaskKeys
from nacre.seeds import derive
from nacre.tasks.task import Task

LARGEST_WORD = PooledStates("words", "max")
"""e(x): in each dimension the largest of the input's word embeddings."""


@final
@dataclass(frozen=True)
class SharedAttention(Routing):
    """Slots are weighted by an attention over their keys, the same in training and at test.

    The newest key is trained; the query's projection goes on through all tasks. With one slot nothing of it is trained:
    its weight is 1.

    Attributes:
        width: h, the projection's inner width.
    """

    groups: ClassVar[tuple[str, ...]] = ("keys", "projection")

    width: int = 100

    def __post_init__(self) -> None:
        if self.width < 1:
            raise RecipeError(f"width: {self.width} is not a positive number of dimensions.")

    def objection(self, adapter: Adapter) -> str | None:
        return None if adapter.weighable else "it weights slots, one for each task; inc_lora has them"

    def place(self, host: Host, adapter: PlacedAdapter) -> PlacedAttention:
        return PlacedAttention(host, self.width)

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Open the new task's key."""
        row = learner.encode(tasks[0].examples("train")[:1])
        width = learner.pooled_states(row, LARGEST_WORD).shape[1]
        attention_of(learner).open(width, derive(learner.state.seed, self.key), learner.task_number)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        slots = learner.adapter.tasks
        if slots == 0:
            return None
        return Route(attention_of(learner).scores(reading.query(LARGEST_WORD), slots).softmax(-1))


@final
class PlacedAttention:
    """The keys and the query's projection, an `Owner` of the groups `keys` and `projection`.

    Attributes:
        host: Whose model holds them, beside what it calls.
        width: h.
        keys: The keys.
        projection: `first` W_1 [h, d], `second` W_2 [d, h], and the layer norm's `norm_weight`, `norm_bias` [d].
    """

    def __init__(self, host: Host, width: int) -> None:
        """Begin without keys.

        Args:
            host: Whose model holds them.
            width: h.
        """
        self.host = host
        self.width = width
        self.keys = TaskKeys(host)
        self.projection: dict[str, nn.Parameter] = {}

    def open(self, d: int, seed: int, number: int) -> None:
        """Open the key of a task, uniform between -1 and 1; with the first one, the projection."""
        if not self.projection:
            shapes = {"first": torch.Size([self.width, d]), "second": torch.Size([d, self.width])}
            start = {name: kaiming_uniform(shape, derive(seed, name)) for name, shape in shapes.items()}
            self._hold(start | {"norm_weight": torch.ones(d), "norm_bias": torch.zeros(d)})
        generator = torch.Generator().manual_seed(derive(seed, "key", number))
        self.keys.open(2 * torch.rand(d, generator=generator) - 1)
        self._put()
        trained = len(self.keys.keys()) > 1
        for parameter in self._parameters():
            parameter.requires_grad_(trained)

    def scores(self, pooled: Tensor, slots: int) -> Tensor:
        """Scores of the first slots, before the softmax, in float32 under autocast too: [B, d] -> [B, slots]."""
        own = self.projection
        with torch.autocast(self.host.device.type, enabled=False):
            norm = own["norm_weight"], own["norm_bias"]
            return attention_scores(pooled, self.keys.keys()[:slots], own["first"], own["second"], norm)

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `Owner`; none with a single key, whose weight is 1."""
        if self.keys.newest is None or len(self.keys.keys()) == 1:
            return []
        return [*self.keys.parameter_groups(), ParameterGroup("projection", tuple(self.projection.values()))]

    def tensors(self) -> dict[str, Tensor]:
        """See `Owner`."""
        return self.keys.tensors() | {name: tensor.detach() for name, tensor in self.projection.items()}

    def values(self) -> dict[str, Any]:
        """See `Owner`."""
        return self.keys.values()

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See `Owner`."""
        keys, d = count_of("routing", values, "keys"), count_of("routing", values, "width")
        shapes = {"first": (self.width, d), "second": (d, self.width), "norm_weight": (d,), "norm_bias": (d,)}
        forms = {name: Form(shape, torch.float32) for name, shape in {"keys": (keys, d), **shapes}.items()}
        check_fit("routing", tensors, forms if keys else {})
        self.keys.load({name: tensor for name, tensor in tensors.items() if name == "keys"}, values)
        self._hold({name: tensors[name] for name in shapes} if keys else {})
        if keys:
            self._put()

    def freeze(self) -> None:
        """See `Owner`."""
        stop_training([ParameterGroup("", tuple(self._parameters()))])

    def remove(self) -> None:
        """See `Owner`."""
        self.keys.remove()
        self.projection = {}

    def _parameters(self) -> list[nn.Parameter]:
        newest = [] if self.keys.newest is None else [self.keys.newest]
        return [*newest, *self.projection.values()]

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        device = self.host.device
        self.projection = {
            name: nn.Parameter(tensor.detach().to(device, copy=True), requires_grad=False)
            for name, tensor in tensors.items()
        }

    def _put(self) -> None:
        put_beside(self.host.model, nn.ParameterList(self._parameters()))


def attention_of(learner: LearnerView) -> PlacedAttention:
    """The learner's shared attention."""
    attention = learner.owners["routing"]
    assert isinstance(attention, PlacedAttention)
    return attention
