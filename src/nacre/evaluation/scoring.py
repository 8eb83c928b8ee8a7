"""From answers to a task's score: exact match after the published normalization, and the share of valid answers."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from nacre.errors import DataError
from nacre.tasks.task import Task

NORMALIZATION = "lower case, ASCII punctuation deleted, white space collapsed"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case, delete every ASCII punctuation character, collapse white space; articles stay.

    Source: the released scorer of O-LoRA (``src/compute_metrics.py``), used by MIGU and, by its numbers, AM-LoRA.
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def is_right(answer: str, target: str) -> bool:
    """Exact match after normalization; an empty answer is never right (the released scorer accepts it for a target
    that normalizes to nothing)."""
    normal = normalize(answer)
    return bool(normal) and normal == normalize(target)


@dataclass(frozen=True)
class TaskScore:
    """accuracy: share of right answers. valid: share of answers that are any label of the task; None without labels.
    right: by row."""

    accuracy: float
    valid: float | None
    answers: tuple[str, ...]
    right: tuple[bool, ...]


def score(task: Task, answers: Sequence[str]) -> TaskScore:
    """Score the answers to the task's test rows."""
    right = tuple(is_right(answer, row.target) for answer, row in zip(answers, task.test, strict=True))
    valid = None
    if task.labels is not None:
        labels = normalized_labels(task)
        valid = sum(normalize(answer) in labels for answer in answers) / len(answers)
    return TaskScore(sum(right) / len(right), valid, tuple(answers), right)


def normalized_labels(task: Task) -> set[str]:
    """The task's labels as they are compared; raises ``DataError`` if two become the same or one becomes nothing."""
    labels = task.labels or ()
    normal = [normalize(label) for label in labels]
    for label, text in zip(labels, normal, strict=True):
        if not text or normal.count(text) > 1:
            raise DataError(
                f"Task '{task.name}': label '{label}' becomes '{text}' when answers are compared ({NORMALIZATION}), "
                "which is empty or the same as another label."
            )
    return set(normal)
