"""The score matrix and what continual learning reads from it.

R has T + 1 rows and T columns: R[0] before any learning, R[i] after the i-th task; column j is the stream's j-th task
(1-based in the formulas). An entry that is not defined is None, and so is every metric that would need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Rows = Sequence[Sequence[float | None]]

DEFINITIONS = {
    "average_accuracy": "mean over j of R[T][j]",
    "learning_accuracy": "mean over j of R[j][j]",
    "pooled_accuracy": "sum over j of n_j R[T][j] / sum of n_j, n_j test rows of task j",
    "forgetting": "mean over j < T of (max over j <= l < T of R[l][j]) - R[T][j] (Chaudhry et al. 2018, from when a "
    "task was learnt); negative values are not clipped",
    "backward_transfer": "mean over j < T of R[T][j] - R[j][j] (Lopez-Paz and Ranzato 2017)",
    "forward_transfer": "mean over j > 1 of R[j-1][j] - R[0][j] (Lopez-Paz and Ranzato 2017; R[0] is the pretrained "
    "model, not a random one)",
}


@dataclass(frozen=True)
class Metrics:
    """Fractions; formulas in ``DEFINITIONS``."""

    average_accuracy: float | None
    learning_accuracy: float | None
    pooled_accuracy: float | None
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None


def metrics(matrix: Rows, test_rows: Sequence[int]) -> Metrics:
    """matrix: `[T + 1][T]`; test_rows: n_j of each task."""
    count = len(test_rows)
    last = matrix[count]
    learnt = [matrix[j + 1][j] for j in range(count)]
    earlier = range(count - 1)
    return Metrics(
        average_accuracy=_mean(last),
        learning_accuracy=_mean(learnt),
        pooled_accuracy=_ratio(_sum([_times(last[j], test_rows[j]) for j in range(count)]), sum(test_rows)),
        forgetting=_mean([_minus(_largest([matrix[i][j] for i in range(j + 1, count)]), last[j]) for j in earlier]),
        backward_transfer=_mean([_minus(last[j], learnt[j]) for j in earlier]),
        forward_transfer=_mean([_minus(matrix[j][j], matrix[0][j]) for j in range(1, count)]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    return _ratio(_sum(values), len(values))


def _ratio(value: float | None, count: int) -> float | None:
    return None if value is None or not count else value / count


def _times(value: float | None, count: int) -> float | None:
    return None if value is None else value * count


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
