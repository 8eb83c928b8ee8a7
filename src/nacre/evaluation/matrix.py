"""The score matrix and the metrics of continual learning.

R has T + 1 rows and T columns: R[0] before any learning, R[i] after the i-th task; column j is the stream's j-th task
(1-based in the formulas). An entry that is not defined is None, and so is every metric that would need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

ScoreMatrix = Sequence[Sequence[float | None]]
Unit = Literal["%", "points"]
Direction = Literal["higher", "lower"]

RANGES: dict[Unit, tuple[float, float]] = {"%": (0.0, 1.0), "points": (-1.0, 1.0)}
"""Between which fractions a value of each unit lies."""


@dataclass(frozen=True)
class RunMetric:
    """A number that sums up a run.

    Attributes:
        key: Its name in records, `results.json` and definitions.
        title: Its name on pages.
        unit: `%` of a fraction, or `points` of a difference of fractions.
        better: Which values are better.
        meaning: What it says, in plain language.
        definition: The formula, with its source.
        compute: From the matrix `[T + 1][T]` and the number of test rows of each task [T]; None where not defined.
    """

    key: str
    title: str
    unit: Unit
    better: Direction
    meaning: str
    definition: str
    compute: Callable[[ScoreMatrix, Sequence[int]], float | None]

    @property
    def heading(self) -> str:
        """A short name for the column of a table."""
        return self.title.split()[0].lower()

    @property
    def signed(self) -> bool:
        """Whether the value is a gain and shown with its sign."""
        return self.unit == "points" and self.better == "higher"


def _average_accuracy(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    return _mean(matrix[len(test_rows)])


def _learning_accuracy(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    return _mean(_diagonal(matrix, len(test_rows)))


def _pooled_accuracy(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    last = matrix[len(test_rows)]
    return _ratio(_sum([_times(score, rows) for score, rows in zip(last, test_rows, strict=True)]), sum(test_rows))


def _incremental_accuracy(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    return _mean([_mean(matrix[i][:i]) for i in range(1, len(test_rows) + 1)])


def _forgetting(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    count = len(test_rows)
    last = matrix[count]
    return _mean([_minus(_largest([matrix[i][j] for i in range(j + 1, count)]), last[j]) for j in range(count - 1)])


def _backward_transfer(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    count = len(test_rows)
    learned = _diagonal(matrix, count)
    return _mean([_minus(matrix[count][j], learned[j]) for j in range(count - 1)])


def _forward_transfer(matrix: ScoreMatrix, test_rows: Sequence[int]) -> float | None:
    return _mean([_minus(matrix[j][j], matrix[0][j]) for j in range(1, len(test_rows))])


AVERAGE_ACCURACY = RunMetric(
    "average_accuracy",
    "Average accuracy",
    "%",
    "higher",
    "The score on all tasks after the last one was learned, each task counting the same.",
    "mean over j of R[T][j]",
    _average_accuracy,
)
FORGETTING = RunMetric(
    "forgetting",
    "Forgetting",
    "points",
    "lower",
    "How far a task's score has fallen at the end from the best that it had; a negative number means that it rose.",
    "mean over j < T of (max over j <= l < T of R[l][j]) - R[T][j] (Chaudhry et al. 2018, from when a task was "
    "learned); negative values are not clipped",
    _forgetting,
)
RUN_METRICS = (
    AVERAGE_ACCURACY,
    RunMetric(
        "learning_accuracy",
        "Learning accuracy",
        "%",
        "higher",
        "The score on each task when it had just been learned: how well the method learns, whatever it forgets later.",
        "mean over j of R[j][j]",
        _learning_accuracy,
    ),
    RunMetric(
        "pooled_accuracy",
        "Pooled accuracy",
        "%",
        "higher",
        "The score on all test rows together after the last task: a task with more test rows counts more.",
        "sum over j of n_j R[T][j] / sum of n_j, n_j test rows of task j",
        _pooled_accuracy,
    ),
    RunMetric(
        "incremental_accuracy",
        "Incremental accuracy",
        "%",
        "higher",
        "The score on the tasks learned so far, taken after each task and averaged: how good the model was all along.",
        "mean over i >= 1 of (mean over j <= i of R[i][j]) (average incremental accuracy, Rebuffi et al. 2017)",
        _incremental_accuracy,
    ),
    FORGETTING,
    RunMetric(
        "backward_transfer",
        "Backward transfer",
        "points",
        "higher",
        "What learning later tasks did to earlier ones: below zero they got worse, above zero better.",
        "mean over j < T of R[T][j] - R[j][j] (Lopez-Paz and Ranzato 2017)",
        _backward_transfer,
    ),
    RunMetric(
        "forward_transfer",
        "Forward transfer",
        "points",
        "higher",
        "What learning earlier tasks did for a task before it was learned itself.",
        "mean over j > 1 of R[j-1][j] - R[0][j] (Lopez-Paz and Ranzato 2017; R[0] is the pretrained model, not a "
        "random one)",
        _forward_transfer,
    ),
)
"""Every metric of a run, in the order in which they are shown."""

DEFINITIONS = {metric.key: metric.definition for metric in RUN_METRICS}


def run_metrics(matrix: ScoreMatrix, test_rows: Sequence[int]) -> dict[str, float | None]:
    """Every metric of a run, by key.

    Args:
        matrix: Scores as fractions, `[T + 1][T]`.
        test_rows: n_j of each task, [T].

    Returns:
        Fractions; None where a metric is not defined.
    """
    return {metric.key: metric.compute(matrix, test_rows) for metric in RUN_METRICS}


def _diagonal(matrix: ScoreMatrix, count: int) -> list[float | None]:
    """Each task's score when it was just learned."""
    return [matrix[j + 1][j] for j in range(count)]


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
