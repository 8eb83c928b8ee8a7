"""Labels that differ only in case or white space, as one label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nacre.tasks.reading.bad_rows import ReadRows
from nacre.tasks.task import Row, Split

ReadSplits = Mapping[Split, ReadRows]


def folded(labels: Sequence[str], splits: ReadSplits) -> tuple[tuple[str, ...], ReadSplits, dict[str, int]]:
    """Folds labels into the spelling that most training rows have.

    Args:
        labels: The label set.
        splits: The rows.

    Returns:
        The labels that are left, in their order; the rows with them; and how many rows changed in each split where
        some did.
    """
    counts = Counter(row.target for _, row in splits["train"].rows)
    usual: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: (-counts[label], label)):
        usual.setdefault(_form(label), label)
    changed = {
        split: replace(read, rows=tuple((record, _folded(row, usual)) for record, row in read.rows))
        for split, read in splits.items()
    }
    numbers = {
        split: sum(old != new for old, new in zip(splits[split].rows, read.rows, strict=True))
        for split, read in changed.items()
    }
    left = tuple(label for label in labels if label in usual.values())
    return left, changed, {split: number for split, number in numbers.items() if number}


def _folded(row: Row, usual: Mapping[str, str]) -> Row:
    target, *references = (usual.get(_form(answer), answer) for answer in row.accepted)
    return replace(row, target=target, references=tuple(dict.fromkeys(r for r in references if r != target)))


def _form(label: str) -> str:
    return " ".join(label.casefold().split())
