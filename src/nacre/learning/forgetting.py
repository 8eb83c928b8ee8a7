"""A task taken out of a learner again."""

from __future__ import annotations

from typing import Protocol

from nacre.errors import DataError, ModelError, nearest
from nacre.learning.snapshot import State
from nacre.method import Method
from nacre.models.growing_head import GrowingHead
from nacre.parts.part import LearnerView


class Forgetting(LearnerView, Protocol):
    """What taking a task out needs of a learner."""

    @property
    def method(self) -> Method: ...
    @property
    def state(self) -> State: ...


def take_out(learner: Forgetting, task: str) -> None:
    """See `Learner.forget`. If a part cannot forget, nothing has happened."""
    state, head = learner.state, learner.host.family.head
    if task not in state.tasks:
        raise DataError(f"forget('{task}'): no such task has been learned. {nearest(task, state.tasks)}")
    _check_apart(learner)
    before = dict(state.parts)
    try:
        for part in learner.method.parts:
            part.forget(learner, task)
        for slot in [slot for slot, name in enumerate(state.tasks) if name == task][::-1]:
            learner.adapter.drop(slot)
    except BaseException:
        state.parts = before
        raise
    state.tasks = [name for name in state.tasks if name != task]
    form = state.forms.pop(task, None)
    state.calibrations.pop(task, None)
    if head is not None and form is not None and isinstance(head.labels, GrowingHead):
        left = {label for own in state.forms.values() for label in own.labels or ()}
        head.labels.drop(set(form.labels or ()) - left)
    learner.cache.clear()


def _check_apart(learner: Forgetting) -> None:
    """Refuse methods whose tasks do not lie apart."""
    method, head = learner.method, learner.host.family.head
    if method.routing is None or not method.adapter.weighable or learner.adapter.tasks != len(learner.state.tasks):
        raise ModelError(
            f"{method.display_name} answers with what all tasks have learned together: none can be taken out. A method "
            "with a slot for each task and a routing can forget one, as inc_lora+gaussian_routing."
        )
    others = sorted(set(learner.owners) - {"adapter", "head"})
    if others or (head is not None and head.kind != "growing"):
        raise ModelError(f"{method.display_name} has a {(*others, 'head')[0]} of which no task can be taken out.")
