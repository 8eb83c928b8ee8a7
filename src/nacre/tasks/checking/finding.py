"""A finding: one thing that is odd about a stream's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

FindingKind = Literal[
    "leak",
    "overlap",
    "identical",
    "repeats",
    "unread",
    "skipped",
    "held out",
    "labels",
    "targets",
    "identity",
    "truncation",
    "spelling",
    "unreadable",
]
FINDING_KINDS: dict[FindingKind, str] = {
    "leak": "test rows that the model trains on, in any task, or that settings are chosen on",
    "overlap": "other texts that occur in two splits",
    "identical": "whole files or splits that are the same",
    "repeats": "texts that occur twice in one split",
    "unread": "columns of the data that are not read",
    "skipped": "rows that cannot be read and are left out",
    "held out": "test rows of a task that has none of its own",
    "labels": "labels that cannot be distinguished, or that no row of a split has",
    "targets": "targets that an answer cannot equal, or that others equal, when answers are compared",
    "identity": "whether a prompt reveals which task it belongs to",
    "truncation": "texts longer than the input may be, and targets longer than a target may be",
    "spelling": "labels and targets that the model's tokenizer writes in another way",
    "unreadable": "tasks that cannot be read",
}


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: A key of `FINDING_KINDS`.
        tasks: The tasks it is about.
        sentence: The finding in one sentence.
        count: The number that the sentence gives.
        rows: The first of the rows, each with its counterpart if it has one.
    """

    kind: FindingKind
    tasks: tuple[str, ...]
    sentence: str
    count: int
    rows: tuple[tuple[str, ...], ...] = ()


def plain(finding: Finding) -> dict[str, Any]:
    """Returns the finding as plain values, with lists for tuples, as JSON reads it back."""
    return {
        **asdict(finding),
        "tasks": list(finding.tasks),
        "rows": [list(names) for names in finding.rows],
    }


def listed(names: Sequence[str], most: int = 8) -> str:
    """Returns the first names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
