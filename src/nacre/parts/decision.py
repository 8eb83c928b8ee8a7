"""An answer, and how sure it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

RowKind = Literal["known", "reworded", "foreign"]
KINDS: tuple[RowKind, ...] = ("known", "reworded", "foreign")
"""By the numbers of `parts/abstention`."""

PLAUSIBLE = 0.1
"""From this probability on a task is worth an answer of its own."""


@dataclass(frozen=True)
class Decision:
    """What a readout answers to a row.

    Attributes:
        answer: The answer.
        kind: Whether the row is of a task that was learned, asked as it was learned (`known`) or in other words
            (`reworded`), or of none (`foreign`): then the bare host answered, and nothing is said of labels and tasks.
        labels: The probability of each label that was chosen from.
        tasks: The probability of each task.
        by_task: The best label of each task with a probability of `PLAUSIBLE` at least.
    """

    answer: str
    kind: RowKind
    labels: Mapping[str, float] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)
    by_task: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        answer: str,
        kind: RowKind,
        labels: Mapping[str, float],
        tasks: Mapping[str, float],
        labels_of: Mapping[str, Collection[str]],
    ) -> Decision:
        """A decision, and what each plausible task would answer.

        Args:
            answer: The answer.
            kind: The row's kind.
            labels: The probability of each label that was chosen from.
            tasks: The probability of each task.
            labels_of: Each task's labels.
        """
        plausible = {name: labels.keys() & labels_of[name] for name, share in tasks.items() if share >= PLAUSIBLE}
        best = {name: max(sorted(own), key=labels.__getitem__) for name, own in plausible.items() if own}
        return cls(answer, kind, labels, tasks, best)

    @property
    def task(self) -> str | None:
        """The likeliest task; None for a foreign row, and where nothing is said of tasks."""
        if self.kind == "foreign" or not self.tasks:
            return None
        return max(sorted(self.tasks), key=self.tasks.__getitem__)

    @property
    def ambiguous(self) -> bool:
        """Whether the row may be of another task than the likeliest, so that `by_task` has several answers."""
        return len(self.by_task) > 1
