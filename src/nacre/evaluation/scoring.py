"""From answers to a task's score: its metric, exact match after normalization, the share of valid answers."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nacre.errors import DataError, nearest
from nacre.evaluation import text_metrics
from nacre.tasks.metrics import TASK_METRICS
from nacre.tasks.task import Row, Task

NORMALIZATION = "lower case, ASCII punctuation deleted, white space collapsed"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case, delete every ASCII punctuation character, collapse white space; articles stay.

    Source: the released scorer of O-LoRA (`src/compute_metrics.py`), used by MIGU and, by its numbers, AM-LoRA.
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def is_right(answer: str, target: str) -> bool:
    """Exact match after normalization; an empty answer is never right.

    The released scorer accepts an empty answer for a target that normalizes to nothing.
    """
    normal = normalize(answer)
    return bool(normal) and normal == normalize(target)


@dataclass(frozen=True)
class TaskScore:
    """The score of a task's answers.

    Attributes:
        value: The task's metric, an entry of the matrix.
        accuracy: Share of right answers; equal to `value` for a task scored by exact match.
        valid: Share of answers that are any label of the task; None without labels.
        answers: The answers, row by row.
        right: Whether each answer is right.
        by_row: The metric of each row, whose mean is `value`; None for a metric of all answers together.
    """

    value: float
    accuracy: float
    valid: float | None
    answers: tuple[str, ...]
    right: tuple[bool, ...]
    by_row: tuple[float, ...] | None

    def __repr__(self) -> str:
        valid = "" if self.valid is None else f", valid={self.valid:.4g}"
        return f"TaskScore(value={self.value:.4g}, accuracy={self.accuracy:.4g}{valid}; {len(self.answers)} answers)"


def score(task: Task, answers: Sequence[str]) -> TaskScore:
    """Score the answers to the task's test rows, each against all of its references.

    Args:
        task: Its test rows, labels and metric count.
        answers: One for each test row.

    Raises:
        DataError: Two labels cannot be told apart after normalization.
        NacreError: The metric's library is not installed.
    """
    rows = list(zip(answers, task.test, strict=True))
    right = tuple(any(is_right(answer, reference) for reference in row.accepted) for answer, row in rows)
    valid = None
    if task.labels is not None:
        labels = normalized_labels(task)
        valid = sum(normalize(answer) in labels for answer in answers) / len(answers)
    by_row = None
    if task.metric in _TOGETHER:
        value = _TOGETHER[task.metric](task, answers)
    else:
        by_row = tuple(_of_row(task.metric, answer, row) for answer, row in rows)
        value = sum(by_row) / len(by_row)
    return TaskScore(value, sum(right) / len(right), valid, tuple(answers), right, by_row)


def check_metric(task: Task) -> None:
    """Check before anything is learned that the task can be scored.

    Raises:
        DataError: The task's metric is unknown, or has no meaning for the task.
        NacreError: Its library is not installed.
    """
    if task.kind == "text":
        return
    if task.metric not in TASK_METRICS:
        raise DataError(f"Task '{task.name}': there is no metric '{task.metric}'. {nearest(task.metric, TASK_METRICS)}")
    if TASK_METRICS[task.metric].needs_labels and task.labels is None:
        raise DataError(f"Task '{task.name}': metric {task.metric} needs a label set, and the task has free text.")
    if task.metric in text_metrics.PACKAGES:
        text_metrics.package_of(task.metric)
    if task.metric == "rouge_l" and not any(text_metrics.rouge_tokens(row.target) for row in task.test):
        raise DataError(
            f"Task '{task.name}': metric rouge_l reads the letters a to z and digits only, and no target of the test "
            "rows has any: choose another metric, such as bleu or edit_similarity."
        )


def _of_row(metric: str, answer: str, row: Row) -> float:
    """The score of one answer against the reference that it fits best; 0 if it is empty."""
    if not answer.strip():
        return 0.0
    if metric == "sari":
        return text_metrics.sari(answer, row.accepted, row.text)
    return max(_BY_REFERENCE[metric](answer, reference) for reference in row.accepted)


def _number(answer: str, reference: str) -> float:
    wanted = text_metrics.as_number(reference)
    return float(is_right(answer, reference) if wanted is None else text_metrics.as_number(answer) == wanted)


_BY_REFERENCE: dict[str, Callable[[str, str], float]] = {
    "exact_match": lambda answer, reference: float(is_right(answer, reference)),
    "exact_string": lambda answer, reference: float(answer.strip() == reference.strip()),
    "first_character": lambda answer, reference: float(answer.strip()[0] == reference.strip()[0]),
    "number": _number,
    "rouge_l": text_metrics.rouge_l,
    "edit_similarity": text_metrics.edit_similarity,
}


def _macro_f1(task: Task, answers: Sequence[str]) -> float:
    number = {normalize(label): index for index, label in enumerate(task.labels or ())}
    answered = [number.get(normalize(answer), -1) for answer in answers]
    return text_metrics.macro_f1(answered, [number[normalize(row.target)] for row in task.test])


def _bleu(task: Task, answers: Sequence[str]) -> float:
    return text_metrics.bleu(answers, [row.accepted for row in task.test])


_TOGETHER: dict[str, Callable[[Task, Sequence[str]], float]] = {"macro_f1": _macro_f1, "bleu": _bleu}
"""Metrics of all answers together."""


def normalized_labels(task: Task) -> set[str]:
    """The task's labels as they are compared.

    Raises:
        DataError: Two labels become the same, or one becomes empty.
    """
    labels = task.labels or ()
    normal = [normalize(label) for label in labels]
    for label, text in zip(labels, normal, strict=True):
        if not text or normal.count(text) > 1:
            raise DataError(
                f"Task '{task.name}': label '{label}' becomes '{text}' when answers are compared ({NORMALIZATION}), "
                "which is empty or the same as another label."
            )
    return set(normal)
