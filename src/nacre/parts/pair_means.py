"""The number and the mean of the rows of each pair of a task and a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.functional.class_statistics import joined
from nacre.parts.class_evidence import TaskLabel


@dataclass(frozen=True)
class PairMean:
    """A pair's rows.

    Attributes:
        task: The task's name.
        label: One of its labels.
        count: n, the number of rows.
        mean: m [d], in float64.
    """

    task: str
    label: str
    count: int
    mean: Tensor

    @property
    def pair(self) -> TaskLabel:
        """Task and label."""
        return self.task, self.label


def in_order(means: Sequence[PairMean]) -> list[PairMean]:
    """Sorted, as they are folded."""
    return sorted(means, key=lambda own: own.pair)


def stacked(means: Sequence[PairMean]) -> Tensor:
    """The means [P, d] in sorted order."""
    return torch.stack([own.mean for own in in_order(means)])


def counts(means: Sequence[PairMean]) -> Tensor:
    """The numbers of rows [P] in sorted order, in float64."""
    return torch.tensor([own.count for own in in_order(means)], dtype=torch.float64, device=means[0].mean.device)


def with_rows(
    known: Sequence[PairMean], task: str, by_label: Mapping[str, Tensor]
) -> tuple[list[PairMean], dict[str, Tensor]]:
    """The means after one more task.

    Args:
        known: Those so far.
        task: The task's name.
        by_label: The states [n, d] of each label's rows.

    Returns:
        All means; and of each label that the task had before, what the scatters of its earlier and its new rows lack
        when they are summed [d, d].
    """
    means = {own.pair: own for own in known}
    lacking = {}
    for label, states in by_label.items():
        count, mean = len(states), states.mean(0)
        before = means.get((task, label))
        if before is not None:
            mean, lacking[label] = joined(before.mean, before.count, mean, count)
            count += before.count
        means[task, label] = PairMean(task, label, count, mean)
    return list(means.values()), lacking
