"""What all parts of a method share: settings without tensors, a key for what they remember, begin and end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nacre.adapters.adapter import PlacedAdapter
    from nacre.models.host import Host
    from nacre.tasks.task import Task


class State(Protocol):
    """See ``nacre.learning.state``: what must survive a restart, by part."""

    @property
    def seed(self) -> int: ...
    @property
    def parts(self) -> dict[str, dict[str, Any]]: ...


class Learner(Protocol):
    """What a part may see of the learner (``nacre.learning.learner``)."""

    @property
    def host(self) -> Host: ...
    @property
    def adapter(self) -> PlacedAdapter: ...
    @property
    def state(self) -> State: ...
    @property
    def task_number(self) -> int:
        """The number of the task being learnt, from 1."""
        ...


Batch = "Sequence[dict[str, Tensor]]"


class Part:
    """Base of all parts. Subclasses are frozen dataclasses of settings.

    What a part must remember lies in ``learner.state.parts[self.key]``: tensors and plain values by name, saved and
    loaded with the learner. What is not there cannot matter.
    """

    @property
    def key(self) -> str:
        """The part's place in the state: its class name in lower case. A method cannot hold two parts of one key."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def begin(self, learner: Learner, tasks: Sequence[Task]) -> None:
        """Called when the adapter has its new slot and before the first step."""

    def end(self, learner: Learner, tasks: Sequence[Task]) -> None:
        """Called after the last step."""
