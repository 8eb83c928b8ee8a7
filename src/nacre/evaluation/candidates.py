"""The labels that a row may be answered with, and how they are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from nacre.errors import DataError
from nacre.evaluation.settings import Decoding, LabelRule
from nacre.functional.label_rules import prior_offsets, share_offsets, token_means
from nacre.models.batch import Batch
from nacre.models.families import Family, Lengths
from nacre.models.label_tree import Labels
from nacre.tasks.task import Task
from nacre.tasks.template import Example


@final
@dataclass(frozen=True)
class Calibration:
    """What is subtracted from the scores of a task's labels; numbers only, and no row.

    Attributes:
        rule: The rule that it belongs to.
        pseudo_rows: How many rows without evidence were added.
        labels: The task's.
        offsets: b of each.
    """

    rule: str
    pseudo_rows: float
    labels: tuple[str, ...]
    offsets: tuple[float, ...]

    @classmethod
    def of(cls, decoding: Decoding, task: Task, scores: Tensor) -> Calibration:
        """The calibration of a task that has been learned.

        Args:
            decoding: Says how.
            task: Its training rows give the labels' shares. A label that none has counts as one row.
            scores: Of its validation rows and labels [n, L].
        """
        labels = task.labels or ()
        if decoding.label_scores == "prior":
            offsets = prior_offsets(scores.cpu(), decoding.pseudo_rows)
        else:
            targets = [row.target for row in task.train]
            counts = torch.tensor([max(1, targets.count(label)) for label in labels], dtype=torch.float64)
            offsets = share_offsets(scores.cpu(), counts / counts.sum(), decoding.pseudo_rows)
        return cls(decoding.label_scores, decoding.pseudo_rows, labels, tuple(offsets.tolist()))

    def check(self, decoding: Decoding, task: str) -> None:
        """Raise a `DataError` unless answers are to be calibrated as this was made."""
        if (self.rule, self.pseudo_rows) != (decoding.label_scores, decoding.pseudo_rows):
            raise DataError(
                f"The labels of task '{task}' were calibrated with label_scores={self.rule}, "
                f"pseudo_rows={self.pseudo_rows:g} when it was learned, which is not done again: answer with these."
            )


@final
@dataclass(frozen=True)
class Candidates:
    """Labels, each once.

    Attributes:
        texts: The labels.
        offsets: What is subtracted from each one's score; () for nothing.
        joined: Whether they are of tasks that know nothing of one another: of labels that are the same tokens to a host
            the first one is meant then, where one task's own would be refused.
    """

    texts: tuple[str, ...]
    offsets: tuple[float, ...] = ()
    joined: bool = False

    @classmethod
    def of_task(cls, labels: Sequence[str], calibration: Calibration | None) -> Candidates:
        """A task's labels. Without a calibration, as before it was learned, nothing is subtracted."""
        return replace(cls.of_tasks([(labels, calibration)]), joined=False)

    @classmethod
    def of_tasks(cls, tasks: Iterable[tuple[Sequence[str], Calibration | None]]) -> Candidates:
        """The labels of some tasks. One that several have stands where the first has it.

        Of its offsets the least counts, so that its score is that of the task for which it is the likeliest.

        Args:
            tasks: Labels, each with its calibration; without one, an offset of 0.
        """
        found: dict[str, float] = {}
        calibrated = False
        for labels, calibration in tasks:
            known = dict(zip(calibration.labels, calibration.offsets, strict=True)) if calibration else {}
            calibrated = calibrated or bool(known)
            for label in labels:
                found[label] = min(found.get(label, known.get(label, 0.0)), known.get(label, 0.0))
        return cls(tuple(found), tuple(found.values()) if calibrated else (), joined=True)


@final
@dataclass(frozen=True)
class LabelSet:
    """Candidates as numbers.

    Attributes:
        texts: The labels; () for free text.
        numbers: Each one's tokens, or its class.
        offsets: As in `Candidates`.
    """

    texts: tuple[str, ...] = ()
    numbers: Labels = ()
    offsets: tuple[float, ...] = ()

    @classmethod
    def of(cls, family: Family, example: Example, candidates: Candidates, lengths: Lengths) -> LabelSet:
        """The candidates as targets of an example."""
        numbers = family.label_set(example, candidates.texts, lengths)
        found = cls(candidates.texts, numbers, candidates.offsets)
        if not candidates.joined:
            return found
        kept = [number for number, label in enumerate(numbers) if not label or label not in numbers[:number]]
        offsets = tuple(found.offsets[number] for number in kept) if found.offsets else ()
        return cls(tuple(found.texts[number] for number in kept), tuple(numbers[number] for number in kept), offsets)

    def check_distinct(self) -> None:
        """Raise a `DataError` where two labels are the same tokens to this host."""
        for number, label in enumerate(self.numbers):
            if label and label in self.numbers[:number]:
                raise DataError(
                    f"Labels '{self.texts[self.numbers.index(label)]}' and '{self.texts[number]}' are the same tokens "
                    "to this host, and decode=labels cannot tell them apart: rename one."
                )

    def answers(self, family: Family, prompts: Batch, rule: LabelRule) -> list[str]:
        """The best label for each row of a batch that `prompts` made; "" where none can be given.

        Of equally good ones it is the first.
        """
        if not self.texts:
            return [""] * prompts.size
        if rule == "sum":
            best = family.classify(prompts, self.numbers)
        else:
            best = _largest(self._scores(family.label_scores(prompts, self.numbers), rule))
        return ["" if number is None else self.texts[number] for number in best]

    def _scores(self, scores: Tensor, rule: LabelRule) -> Tensor:
        """[B, labels] in float64."""
        scores = scores.double()
        if rule == "token_mean":
            return token_means(scores, torch.tensor([max(1, len(label)) for label in self.numbers]))
        return scores - scores.new_tensor(self.offsets) if self.offsets else scores


def _largest(scores: Tensor) -> list[int | None]:
    values, best = scores.max(1)
    found = zip(best.tolist(), values.tolist(), strict=True)
    return [None if value == -torch.inf else number for number, value in found]
