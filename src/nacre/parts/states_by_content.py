"""A task's rows as the bare host reads them once, in an order and in batches that depend on their content alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nacre.errors import TrainingError
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import LearnerView


def by_content(rows: Sequence[Encoded], targets: Sequence[str]) -> tuple[list[Encoded], list[str]]:
    """Rows and their targets, sorted by length and content: whatever their order was."""
    ordered = sorted(
        zip(rows, targets, strict=True),
        key=lambda row: (len(row[0].source), row[0].source, row[0].bare or "", row[1]),
    )
    return [row for row, _ in ordered], [target for _, target in ordered]


def states_in_order(
    learner: LearnerView, task: str, rows: Sequence[Encoded], states: PooledStates, batch_size: int
) -> Tensor:
    """The rows' states in their order [n, d], in float64.

    Args:
        learner: Whose host reads, without what was learned.
        task: The task's name, for an error.
        rows: The rows.
        states: What is pooled.
        batch_size: Rows read at once.

    Raises:
        TrainingError: If a state is not finite.
    """
    starts = range(0, len(rows), batch_size)
    read = torch.cat([learner.pooled_states(rows[start : start + batch_size], states) for start in starts])
    if not bool(read.isfinite().all()):
        raise TrainingError(f"Task '{task}': the host's states of a row are not finite.")
    return read.double()


def states_by_content(
    learner: LearnerView,
    task: str,
    rows: Sequence[Encoded],
    targets: Sequence[str],
    states: PooledStates,
    batch_size: int,
) -> tuple[Tensor, list[str]]:
    """The rows' states, sorted by length and content: whatever the rows' order, the same bits.

    Args:
        learner: Whose host reads, without what was learned.
        task: The task's name, for an error.
        rows: The rows.
        targets: Each row's target; "" where there is none.
        states: What is pooled.
        batch_size: Rows read at once.

    Returns:
        The states [n, d] in float64, and the targets in their order.

    Raises:
        TrainingError: If a state is not finite.
    """
    rows, targets = by_content(rows, targets)
    return states_in_order(learner, task, rows, states, batch_size), targets
