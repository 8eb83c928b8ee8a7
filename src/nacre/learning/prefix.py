"""Where an adapter's virtual tokens meet the host: asked for every row that becomes part of a batch."""

from __future__ import annotations

from typing import Protocol

from nacre.adapters.adapter import PlacedAdapter
from nacre.errors import DataError
from nacre.learning.snapshot import State
from nacre.method import Method


class Prompted(Protocol):
    """What virtual tokens depend on: a `Learner`, as far as it is needed here."""

    method: Method
    adapter: PlacedAdapter
    state: State
    unfinished: str | None


class LearnerPrefix:
    """The `Prefix` that a learner puts into its host's family."""

    def __init__(self, learner: Prompted) -> None:
        self.learner = learner

    @property
    def behind(self) -> bool:
        """See `nacre.models.prefix.Prefix`."""
        return self.learner.method.adapter.virtual_tokens_behind

    def tokens(self, task: str) -> tuple[int, ...]:
        """See `nacre.models.prefix.Prefix`. A task that was never learned has those of the newest one."""
        adapter, learned = self.learner.adapter, self.learner.state.tasks
        if not self.learner.method.adapter.needs_task_at_test:
            return adapter.virtual_tokens(adapter.tasks)
        if not task:
            raise DataError(
                f"{self.learner.method.display_name} must be given the task of every input, and none was: name it, as "
                "in predict(inputs, task=...)."
            )
        is_newest = task == self.learner.unfinished or task not in learned
        # Of a task that was learned again, the last time counts.
        return adapter.virtual_tokens(adapter.tasks if is_newest else len(learned) - learned[::-1].index(task))
