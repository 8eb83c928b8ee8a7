"""Rows that a model writes itself: a text and its answer in one string, and taken apart again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nacre.tasks.task import Row


@dataclass(frozen=True)
class PseudoRows:
    """What is left of a task's samples, and what became of the others.

    Attributes:
        rows: The rows that are kept, in the order in which they were drawn.
        drawn: How many samples there were.
        parsed: How many of them were a text and an answer that the task has.
        duplicates: How many of these repeated an earlier one.
        labels: How many rows are kept of each label, for a task with labels.
    """

    rows: tuple[Row, ...]
    drawn: int
    parsed: int
    duplicates: int
    labels: dict[str, int]


def row_as_text(text: str, answer: str, separator: str) -> str:
    """A row in one string.

    Args:
        text: The row's text.
        answer: Its answer.
        separator: What stands between them.
    """
    return f"{' '.join(text.split())} {separator} {answer}"


def parse_rows(
    samples: Sequence[str], separator: str, labels: Sequence[str] | None, limit: int, *, by_label: bool = True
) -> PseudoRows:
    """Take samples apart.

    A sample counts if the separator stands in it exactly once, between a text and, for a task with labels, one of them;
    white space and case do not matter.

    Args:
        samples: As `row_as_text` writes them, or anything else.
        separator: What stands between text and answer.
        labels: The task's; None for free text.
        limit: So many rows are kept at most, the first ones.
        by_label: Whether that holds for each label, if the task has some, and not for all rows.
    """
    pattern = re.compile(
        r"\s*".join(re.escape(character) for character in separator if not character.isspace()), re.IGNORECASE
    )
    known = None if labels is None else {_folded(label): label for label in labels}
    kept: list[Row] = []
    counts: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    parsed = duplicates = 0
    for sample in samples:
        text, *rest = (" ".join(piece.split()) for piece in pattern.split(sample))
        answer = None if len(rest) != 1 else rest[0] if known is None else known.get(_folded(rest[0]))
        if not text or not answer:
            continue
        parsed += 1
        if (text, answer) in seen:
            duplicates += 1
            continue
        seen.add((text, answer))
        if (counts[answer] if by_label and known is not None else len(kept)) < limit:
            counts[answer] += 1
            kept.append(Row(text, answer))
    return PseudoRows(tuple(kept), len(samples), parsed, duplicates, {} if known is None else dict(counts))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
