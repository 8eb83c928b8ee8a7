"""Answers from evidence about classes: what the closed-form learners share. Nothing is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.errors import TrainingError
from nacre.functional.class_statistics import best_strings
from nacre.functional.exact_sums import ExactSum
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.derived import derived
from nacre.parts.kept_states import kept_states
from nacre.parts.part import LearnerView, Readout
from nacre.parts.states_by_content import states_by_content
from nacre.tasks.task import Task
from nacre.tasks.template import TaskKind

MEAN_OF_TEXT = PooledStates(text="bare")
Answer = Literal["best_pair", "sum"]
"""Of a label that several tasks have: the evidence of its best pair, or their sum."""

TaskLabel = tuple[str, str]
"""A task and one of its labels."""

Evidence = Callable[[Tensor], Tensor]
"""From expanded states [B, D] to the pairs' log evidence [B, P]."""


@dataclass(frozen=True)
class ClassEvidence(Readout, ABC):
    """The label of the best pair of a task and a label, by the bare host's states.

    After a task its training rows are read once, in an order and in batches that depend on their content alone. What is
    remembered is one statistic for each pair, folded in the pairs' sorted order, and sums without rounding
    (`functional/exact_sums`): in any order of rows and of tasks it has the same bits. All is computed in float64.

    Attributes:
        states: z, of the bare host.
        batch_size: Rows of a task that are read at once, after it has been learned.
    """

    learns: ClassVar[frozenset[TaskKind]] = frozenset({"answer"})
    chooses_labels: ClassVar[bool] = True

    states: PooledStates = MEAN_OF_TEXT
    batch_size: int = 32

    @property
    def needs_boundaries(self) -> bool:
        return True

    @property
    def sums_labels(self) -> bool:
        """Whether a label that several tasks have is given the sum of their evidence."""
        return False

    def objection(self, adapter: Adapter) -> str | None:
        if adapter.groups:
            return "it answers by the bare host alone, so that an adapter would be trained for nothing"
        return None

    @abstractmethod
    def absorbed(self, learner: LearnerView, known: Any, task: str, by_label: Mapping[str, Tensor]) -> Any:
        """What is remembered after one more task.

        Args:
            learner: Who asks.
            known: What is remembered so far; None before the first task.
            task: Its name.
            by_label: The states [n, d] of each label's rows, in float64, labels and rows in canonical order.
        """

    @abstractmethod
    def pairs(self, known: Any) -> list[TaskLabel]:
        """The pairs that are known, sorted."""

    @abstractmethod
    def evidence(self, learner: LearnerView, known: Any) -> Evidence:
        """What tells the pairs' log evidence, in the order of `pairs`; made once a task."""

    @final
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        assert self.State is not None
        for task in tasks:
            examples = task.examples("train")
            targets = [example.target for example in examples]
            read, targets = states_by_content(
                learner, task.name, learner.encode(examples), targets, self._view(learner), self.batch_size
            )
            by_label = {
                label: read[[number for number, target in enumerate(targets) if target == label]]
                for label in sorted(set(targets))
            }
            learner.remember(self, self.absorbed(learner, learner.remembered(self, self.State), task.name, by_label))

    @final
    def classify(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
        assert self.State is not None
        known = learner.remembered(self, self.State)
        if known is None:
            return [""] * len(rows)
        pairs, evidence = self._solved(learner, known)
        open_pairs = [number for number, (_, label) in enumerate(pairs) if labels is None or label in labels]
        if not open_pairs:
            return [""] * len(rows)
        scores = evidence(kept_states(learner, rows, self._view(learner)))[:, open_pairs]
        own = [pairs[number][1] for number in open_pairs]
        strings = sorted(set(own))
        best = best_strings(scores, [strings.index(label) for label in own], self.sums_labels)
        return [strings[number] for number in best]

    def _view(self, learner: LearnerView) -> PooledStates:
        """Of a decoder-only host's mean the first token is left out: its state may outweigh all others."""
        first = self.states.pooling == "mean" and learner.host.family.name == "decoder-only"
        return replace(self.states, drop_first=first)

    def _solved(self, learner: LearnerView, known: Any) -> tuple[list[TaskLabel], Evidence]:
        return derived(learner, self.key, known, lambda: (self.pairs(known), self.evidence(learner, known)))


def summed(learner: LearnerView, before: ExactSum | None, term: Tensor) -> ExactSum:
    """An exact sum with one more symmetric matrix in float64.

    Raises:
        TrainingError: If a number is too large.
    """
    try:
        more = ExactSum.of(term)
    except OverflowError:
        raise TrainingError(
            f"The states of '{learner.host.name}' are too large to be summed exactly: choose another layer."
        ) from None
    return more if before is None else before + more
