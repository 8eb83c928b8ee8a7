"""MoCL: an input's similarity to learned task vectors says how much of each task's module it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.functional.composition import composition_weights
from nacre.functional.prompt_pool import key_distances
from nacre.models.host import Host
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch, Reading, Routing
from nacre.parts.slots_of_tasks import note_tasks, slots_of_tasks
from nacre.parts.task_keys import TaskKeys
from nacre.per_task import PerTask, check_not_negative
from nacre.seeds import derive
from nacre.tasks.task import Task

MEAN_OF_LAST = PooledStates()


@dataclass(frozen=True)
class KeyMatching(Routing):
    """Each task has a key; slots are weighted by the cosines of keys and query (`functional/composition`).

    In training a row of task j composes the slots up to j. Only the newest key is trained.

    Attributes:
        query: q, of the bare host.
        sharpness: kappa of the softmax; None: the cosines themselves are the weights.
        composes: At test, of a row: the slots up to its 'given' task, up to the one 'predicted' by the largest cosine,
            or 'all'.
        key_start: Where a key begins: 'uniform' in [0, 1), or standard 'normal'.
        key_rate: The keys' learning rate, in multiples of the task's.
    """

    groups: ClassVar[tuple[str, ...]] = ("keys",)

    query: PooledStates = MEAN_OF_LAST
    sharpness: float | None = 8.0
    composes: Literal["given", "predicted", "all"] = "given"
    key_start: Literal["uniform", "normal"] = "uniform"
    key_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.sharpness is not None and not self.sharpness > 0:
            raise RecipeError(f"sharpness: {self.sharpness} is not positive; it multiplies cosines in a softmax.")
        if not self.key_rate > 0:
            raise RecipeError(f"key_rate: {self.key_rate} is not positive; it multiplies the keys' learning rate.")

    @property
    def needs_task_at_test(self) -> bool:
        return self.composes == "given"

    def infers_task(self, adapter: Adapter) -> bool:
        """Cosines alone are no shares: among those that are not positive, a slot that takes no part has the most."""
        return self.composes != "given" and self.sharpness is not None

    def objection(self, adapter: Adapter) -> str | None:
        return None if adapter.weighable else "it weights slots, one for each task; inc_lora has them"

    def place(self, host: Host, adapter: PlacedAdapter) -> TaskKeys:
        return TaskKeys(host, self.key_rate)

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Open the new task's key."""
        note_tasks(learner, tasks)
        row = learner.encode(tasks[0].examples("train")[:1])
        width = learner.pooled_states(row, self.query).shape[1]
        seed = derive(learner.state.seed, self.key, learner.task_number)
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand if self.key_start == "uniform" else torch.randn
        _keys_of(learner).open(draw(width, generator=generator))

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        slots = learner.adapter.tasks
        if slots == 0:
            return None
        keys = _keys_of(learner).keys()[:slots]  # the new key is there before its slot
        with torch.autocast(keys.device.type, enabled=False):
            cosines = 1 - key_distances(reading.query(self.query), keys)
        newest = slots - 1
        if all(reading.tasks):
            last = torch.tensor(slots_of_tasks(learner, reading.tasks), device=keys.device)
        elif self.composes == "predicted":
            last = cosines.argmax(-1)
        else:
            last = torch.full((len(cosines),), newest, device=keys.device)
        weights = composition_weights(cosines, last, self.sharpness)
        matched = torch.stack([cosines[:, newest], weights[:, newest]], dim=1)
        return Route(weights, scores=torch.where((last == newest).unsqueeze(1), matched, 1))


def _keys_of(learner: LearnerView) -> TaskKeys:
    keys = learner.owners["routing"]
    assert isinstance(keys, TaskKeys)
    return keys


@dataclass(frozen=True)
class Matching(BatchTerm):
    """Pulls the newest key to its task's queries: the mean over rows of 1 - c_t, or of 1 - w_t.

    Rows of earlier tasks, which a memory may mix in, pull nothing.

    Attributes:
        strength: eta.
        of: 'cosine', c_t, or 'weight', w_t.
    """

    strength: PerTask = 1.0
    of: Literal["cosine", "weight"] = "cosine"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the matching term")

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        assert batch.route is not None
        assert batch.route.scores is not None
        matched = batch.route.scores[:, 0 if self.of == "cosine" else 1]
        return (1 - matched).sum() * learner.step.tokens_per_row
