"""The metrics of a task's answers: names, headings and meanings.

The functions are in `nacre.evaluation`, so that data can be read and checked without them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskMetric:
    """A metric of answers. Every metric lies between 0 and 1; an empty answer scores 0.

    Attributes:
        title: The heading of its column.
        meaning: Its definition, in one sentence.
        needs_labels: Whether it is defined only for tasks with a label set.
        normalized: Whether answers and targets lose case and punctuation before they are compared.
    """

    title: str
    meaning: str
    needs_labels: bool = False
    normalized: bool = True


TASK_METRICS: dict[str, TaskMetric] = {
    "exact_match": TaskMetric("exact match", "share of answers that equal a reference after normalization"),
    "exact_string": TaskMetric(
        "exact string",
        "share of answers that equal a reference letter by letter, ignoring white space at the ends",
        normalized=False,
    ),
    "macro_f1": TaskMetric(
        "macro-F1",
        "mean F1 over the labels that occur among the test rows; an answer that is not a label is a miss for its row "
        "and counts for no label",
        needs_labels=True,
    ),
    "number": TaskMetric(
        "number",
        "share of answers that are the reference's number (5, 5.0 and '5.' are equal); exact match if the reference "
        "is not a number",
    ),
    "first_character": TaskMetric(
        "first character", "share of answers that begin with the first character of a reference, ignoring white space"
    ),
    "rouge_l": TaskMetric(
        "ROUGE-L",
        "mean over rows of the largest ROUGE-L F over the references (rouge-score, with its stemmer; it reads a to z "
        "and 0 to 9 only)",
    ),
    "bleu": TaskMetric("BLEU", "BLEU of all answers together, up to 4-grams, against all references (sacrebleu, 13a)"),
    "sari": TaskMetric(
        "SARI",
        "mean over rows of SARI against the row's text and all references (Xu et al. 2016; lower case, sacrebleu's 13a "
        "tokens)",
    ),
    "edit_similarity": TaskMetric(
        "edit similarity",
        "mean over rows of the largest rapidfuzz ratio over the references, divided by 100, after Py150's "
        "placeholders are replaced by the literals they stand for",
    ),
}


def title(name: str) -> str:
    """Returns a metric's heading."""
    return TASK_METRICS[name].title if name in TASK_METRICS else name.replace("_", " ")


_OTHER_WORDS = {"accuracy": "exact_match"}


def metric_name(text: str) -> str | None:
    """Returns the metric that a text names, also as `ROUGE-L` or `edit similarity`; None if it names none."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = _OTHER_WORDS.get(name, name)
    return name if name in TASK_METRICS else None
