"""What a learner's future depends on. What is not in here, or in the adapter's tensors, cannot matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class State:
    """seed: all randomness is computed from it and from where it is used, so no generator's state is kept.
    tasks: names of the tasks learnt, in order: the position in the stream.
    parts: what each part remembers, by its key: tensors and plain values.

    The optimizer is not here: each task has its own, and checkpoints are taken between tasks.
    """

    seed: int = 0
    tasks: list[str] = field(default_factory=list)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
