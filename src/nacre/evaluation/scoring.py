"""From answers to a task's score: its metric, exact match after normalization, the share of valid answers."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nacre.errors import DataError, nearest
from nacre.evaluation import text_metrics
from nacre.tasks.metrics import TASK_METRICS
from nacre.tasks.task import Row, Task

NORMALIZATION = "lower case, ASCII punctuation deleted, white space collapsed"
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese letters."""
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case, delete every ASCII punctuation character, collapse white space; articles stay.

    Source: the released scorer of O-LoRA (`src/compute_metrics.py`), used by MIGU and, by its numbers, AM-LoRA.
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def as_compared(text: str, metric: str = "exact_match") -> str:
    """What is compared of an answer or a target under a metric."""
    return normalize(text) if TASK_METRICS[metric].normalized else text.strip()


def is_right(answer: str, target: str, metric: str = "exact_match") -> bool:
    """Exact match of what is compared; an empty answer is never right.

    The released scorer accepts an empty answer for a target that normalizes to nothing.
    """
    compared = as_compared(answer, metric)
    return bool(compared) and compared == as_compared(target, metric)


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
        DataError: The metric has no meaning for the task, as with `check_metric`, or two labels cannot be told apart
            after normalization.
        NacreError: The metric's library is not installed.
    """
    check_metric(task)
    rows = list(zip(answers, task.test, strict=True))
    right = tuple(any(is_right(answer, reference, task.metric) for reference in row.accepted) for answer, row in rows)
    valid = None
    if task.labels is not None:
        labels = normalized_labels(task)
        valid = sum(as_compared(answer, task.metric) in labels for answer in answers) / len(answers)
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
            "rows has any: choose another metric, such as edit_similarity."
        )
    if task.metric == "bleu":
        _check_bleu(task)
    if task.metric == "exact_match" and task.labels is None and not any(normalize(row.target) for row in task.test):
        raise DataError(
            f"Task '{task.name}': nothing is left of any target of the test rows when answers are compared "
            f"({NORMALIZATION}), so that no answer would be right: choose the metric exact_string."
        )


def _check_bleu(task: Task) -> None:
    """Refuse targets for which BLEU is 0 or meaningless whatever is answered.

    It counts runs of four words, and finds words by the spaces between them.
    """
    targets = [answer for row in task.test for answer in row.accepted]
    if sum(_NO_SPACES.search(target) is not None for target in targets) * 2 > len(targets):
        why = "most targets of the test rows are in a script without spaces between words"
    elif all(len(text_metrics.bleu_tokens(target)) < 4 for target in targets):
        why = "no target of the test rows has four words, so that every score would be 0"
    else:
        return
    raise DataError(
        f"Task '{task.name}': metric bleu compares runs of four words, and {why}: choose another metric, such as "
        "edit_similarity or exact_match."
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
    "exact_string": lambda answer, reference: float(is_right(answer, reference, "exact_string")),
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
    normal = [as_compared(label, task.metric) for label in labels]
    for label, text in zip(labels, normal, strict=True):
        if not text or normal.count(text) > 1:
            raise DataError(
                f"Task '{task.name}': label '{label}' becomes '{text}' when answers are compared ({NORMALIZATION}), "
                "which is empty or the same as another label; the metric exact_string compares letter by letter."
            )
    return set(normal)
