"""A learner that is given every row's task."""

from __future__ import annotations

from typing import Any

from nacre.learning.learner import Learner


class TaskLearner(Learner):
    """A learner whose heads are told the task, unless it is said otherwise."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **{"head": "per_task", **named})
