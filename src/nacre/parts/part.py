"""What all parts of a method share: settings without tensors, a key for what they remember, begin and end."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from nacre.adapters.adapter import Adapter, PlacedAdapter
    from nacre.models.families import Encoded
    from nacre.models.host import Host
    from nacre.parts.gradient_rule import GradientRule
    from nacre.tasks.task import Task
    from nacre.tasks.template import Example


class State(Protocol):
    """See ``nacre.learning.state``: what must survive a restart, by part."""

    @property
    def seed(self) -> int: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def parts(self) -> dict[str, dict[str, Any]]: ...


@dataclass(frozen=True)
class Step:
    """Where training is. number: of the optimizer's step, from 0; of: how many the task has; rate: this step's
    learning rate, of which a parameter group's own is a multiple (``ParameterGroup.rate``). takes_part: whether this
    process has rows of the step; where there are fewer rows than processes, some run another's row with weight 0.
    all_forward: whether the step's forward passes are over, so that its last backward pass comes, or is under way."""

    number: int
    of: int
    rate: float
    takes_part: bool = True
    all_forward: bool = False


class Composition(Protocol):
    """See ``nacre.method``: what the method is made of."""

    @property
    def gradient_rules(self) -> tuple[GradientRule, ...]:
        """In the order in which they act."""
        ...


class Held(Protocol):
    """What is alive only while a task is learnt, such as hooks on the host."""

    def close(self) -> None: ...


class Learner(Protocol):
    """What a part may see of the learner (``nacre.learning.learner``)."""

    @property
    def host(self) -> Host: ...
    @property
    def adapter(self) -> PlacedAdapter: ...
    @property
    def state(self) -> State: ...
    @property
    def method(self) -> Composition: ...
    @property
    def task_number(self) -> int:
        """The number of the task being learnt, from 1."""
        ...

    @property
    def held(self) -> dict[str, Held]:
        """What parts hold while a task is learnt, by key; closed and dropped when learning stops, with or without an
        error. What must survive that is in ``state``."""
        ...

    @property
    def derived(self) -> dict[str, Any]:
        """What parts have computed from the adapter's tensors and keep for the next task, by key. Never saved: without
        it a part computes the same again, to the bit."""
        ...

    @property
    def report(self) -> Callable[..., None]:
        """Called as ``report(kind, **plain values)`` with what a person should know; ``warning`` has a ``text``."""
        ...

    @property
    def step(self) -> Step:
        """The step being taken, while the loss is computed and gradient rules act."""
        ...

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The examples as token ids, within the lengths that training uses."""
        ...

    def loss_sum(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum over the rows' target tokens of the task loss, as one batch, in the model's present mode."""
        ...


class Part:
    """Base of all parts. Subclasses are frozen dataclasses of settings.

    What a part must remember lies in ``learner.state.parts[self.key]``: tensors and plain values by name, saved and
    loaded with the learner. What is not there cannot matter.
    """

    @property
    def key(self) -> str:
        """The part's place in the state: its class name in lower case. A method cannot hold two parts of one key."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def objection(self, adapter: Adapter) -> str | None:
        """Why this part cannot work with that adapter, as a sentence that says what would be right; None if it can.

        Asked when a method is put together, so that a combination without sense is refused before anything runs.
        """
        return None

    @property
    def needs_boundaries(self) -> bool:
        """Whether it must be told in training when one task ends and the next begins. So it is with every part that
        does something then; one that only prepares itself there says otherwise."""
        return type(self).begin is not Part.begin or type(self).end is not Part.end

    def begin(self, learner: Learner, tasks: Sequence[Task]) -> None:
        """Called when the adapter has its new slot and before the first step."""

    def end(self, learner: Learner, tasks: Sequence[Task]) -> None:
        """Called after the last step."""
