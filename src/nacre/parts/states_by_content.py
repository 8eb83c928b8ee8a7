"""A task's rows as the bare host reads them once, in an order and in batches that depend on their content alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nacre.errors import TrainingError
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import LearnerView


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
    ordered = sorted(
        zip(rows, targets, strict=True),
        key=lambda row: (len(row[0].source), row[0].source, row[0].bare or "", row[1]),
    )
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    read = torch.cat([learner.pooled_states([row for row, _ in batch], states) for batch in batches])
    if not bool(read.isfinite().all()):
        raise TrainingError(f"Task '{task}': the host's states of a row are not finite.")
    return read.double(), [target for _, target in ordered]
