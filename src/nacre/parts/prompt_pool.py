"""A pool of prompts with keys: the nearest to an input's query stand in front of it (L2P)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nacre import processes
from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.adapters.prompt import Prompt
from nacre.adapters.route import Route
from nacre.adapters.site import put_beside, take_from_beside
from nacre.functional.prompt_pool import frequency_penalties, key_distances, nearest_keys
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import BatchTerm, Holding, LearnerView, MicroBatch, Reading, Routing
from nacre.per_task import PerTask
from nacre.seeds import derive
from nacre.tasks.task import Task

Diversify = Literal["off", "frequency", "smoothed"]


@dataclass(frozen=True)
class ChoiceCounts:
    """How often each of the M prompts was chosen in training, [M] of int64."""

    counts: Tensor


@final
@dataclass(frozen=True)
class PromptPool(Routing, Holding):
    """M prompts of l tokens, each with a key; the N whose keys are nearest to a row's query stand in front of it.

    Attributes:
        pool: M, prompts of the pool.
        length: l, tokens of a prompt.
        select: N, prompts in front of an input.
        query: What an input is compared by, in the bare host.
        diversify: Whether training prefers prompts that earlier tasks chose rarely: not at all, by their share of the
            choices, or by a share that is never 0. At test nothing is preferred.
    """

    State: ClassVar[type[ChoiceCounts]] = ChoiceCounts
    Held: ClassVar[type[ChoiceCounts]] = ChoiceCounts
    groups: ClassVar[tuple[str, ...]] = ("keys",)

    pool: int
    length: int
    select: int
    query: PooledStates
    diversify: Diversify = "off"

    @property
    def needs_boundaries(self) -> bool:
        return self.diversify != "off"

    def objection(self, adapter: Adapter) -> str | None:
        wanted = Prompt(tokens=self.pool * self.length, placeholders=self.select * self.length)
        return None if adapter == wanted else f"it chooses among the rows of one shared prompt, {wanted}"

    def place(self, host: Host, adapter: PlacedAdapter) -> PlacedKeys:
        return PlacedKeys(host, self.pool)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        keys = learner.owners["routing"]
        assert isinstance(keys, PlacedKeys)
        if keys.keys is None:
            query = learner.pooled_states(learner.encode(tasks[0].examples("train")[:1]), self.query)
            keys.begin(query.shape[1], learner.state.seed)
        else:
            keys.keys.requires_grad_(True)
        if self.diversify != "off":
            learner.resources[self.key] = torch.zeros(self.pool, dtype=torch.long, device=learner.host.device)

    def held(self, learner: LearnerView) -> ChoiceCounts | None:
        return None if self.diversify == "off" else ChoiceCounts(self._counted(learner))

    def take_back(self, learner: LearnerView, held: ChoiceCounts) -> None:
        learner.resources[self.key] = held.counts if processes.is_first() else torch.zeros_like(held.counts)

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        if self.diversify == "off":
            return
        before = learner.remembered(self, ChoiceCounts)
        counts = self._counted(learner).cpu()
        learner.remember(self, ChoiceCounts(counts if before is None else before.counts + counts))

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        owner = learner.owners["routing"]
        assert isinstance(owner, PlacedKeys)
        if owner.keys is None or learner.adapter.tasks == 0:
            return None
        in_training = all(reading.tasks)  # at test they are unknown
        distances = key_distances(reading.query(self.query), owner.keys)
        chosen = nearest_keys(distances, self.select, self._penalties(learner) if in_training else None)
        if in_training and self.key in learner.resources and learner.step.takes_part:
            counts: Tensor = learner.resources[self.key]
            # bincount would wait for the device to know the largest number.
            counts.index_add_(0, chosen.flatten(), torch.ones_like(chosen.flatten()))
        rows = chosen.unsqueeze(-1) * self.length + torch.arange(self.length, device=chosen.device)
        return Route(prompts=rows.flatten(1), scores=distances.gather(1, chosen))

    def _counted(self, learner: LearnerView) -> Tensor:
        """How often each prompt was chosen so far in this task, by all processes [M]."""
        return torch.stack(processes.gathered(learner.resources[self.key])).sum(0)

    def _penalties(self, learner: LearnerView) -> Tensor | None:
        earlier = None if self.diversify == "off" else learner.remembered(self, ChoiceCounts)
        if earlier is None:
            return None
        penalties = frequency_penalties(earlier.counts, smoothed=self.diversify == "smoothed")
        return None if penalties is None else penalties.to(learner.host.device)


@final
class PlacedKeys:
    """The keys of a pool, the `Owner` of the group `keys`.

    Attributes:
        keys: [M, d] in float32; None before the first task.
    """

    def __init__(self, host: Host, pool: int) -> None:
        """Begin without keys.

        Args:
            host: Whose model holds them, beside what it calls.
            pool: M, how many there are.
        """
        self.host = host
        self.pool = pool
        self.keys: nn.Parameter | None = None

    def begin(self, width: int, seed: int) -> None:
        """Random keys, uniform between -1 and 1.

        Args:
            width: d of the queries.
            seed: Of the learner.
        """
        generator = torch.Generator().manual_seed(derive(seed, "keys"))
        self._hold(2 * torch.rand(self.pool, width, generator=generator) - 1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `Owner`."""
        return [] if self.keys is None else [ParameterGroup("keys", (self.keys,))]

    def tensors(self) -> dict[str, Tensor]:
        """See `Owner`."""
        return {} if self.keys is None else {"keys": self.keys.detach()}

    def values(self) -> dict[str, Any]:
        """See `Owner`."""
        return {} if self.keys is None else {"width": self.keys.shape[1]}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See `Owner`."""
        width = count_of("routing", values, "width")
        check_fit("routing", tensors, {"keys": Form((self.pool, width), torch.float32)} if width else {})
        if width:
            self._hold(tensors["keys"].clone())
            self.freeze()
        else:
            self.remove()

    def freeze(self) -> None:
        """See `Owner`."""
        stop_training(self.parameter_groups())

    def remove(self) -> None:
        """See `Owner`."""
        take_from_beside(self.host.model)
        self.keys = None

    def _hold(self, keys: Tensor) -> None:
        self.keys = nn.Parameter(keys.to(self.host.device))
        put_beside(self.host.model, nn.ParameterList([self.keys]))


@final
@dataclass(frozen=True)
class KeyPull(BatchTerm):
    """Pulls the keys that were chosen to the queries that chose them: the mean over rows of sum_i gamma(q, k_i), Eq. 5.

    Attributes:
        strength: lambda.
    """

    strength: PerTask = 0.5

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        assert batch.route is not None
        assert batch.route.scores is not None
        return batch.route.scores.sum() * learner.step.tokens_per_row
