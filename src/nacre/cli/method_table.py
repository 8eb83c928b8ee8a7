"""Methods side by side: in groups as papers have them, and as a table of their traits (MIGU, Table 1, extended)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Listed = Mapping[str, Any]
"""A method's `name`, `title`, and its traits by name."""

GROUPS: dict[str, Mapping[str, bool]] = {
    "Rehearsal-free, without the task at test": {
        "continual": True,
        "rehearsal-free": True,
        "task identity at test": False,
    },
    "Rehearsal-free, given the task at test": {
        "continual": True,
        "rehearsal-free": True,
        "task identity at test": True,
    },
    "With rows of earlier tasks, stored or generated": {"continual": True, "rehearsal-free": False},
    "Bounds: all tasks at once, or a model for each": {"continual": False},
}
"""Each group's heading, and the traits that its methods share. Every method is in one of them."""

COLUMNS = (
    *("rehearsal-free", "task boundaries in training", "task identity at test"),
    *("fine-tuning", "pre-training", "grows with tasks"),
)
"""The traits that the table shows."""


def grouped(entries: Sequence[Listed]) -> Iterator[tuple[str, list[Listed]]]:
    """The groups that have methods, each with its own in the order in which they came.

    Args:
        entries: Of all methods.
    """
    for heading, shared in GROUPS.items():
        members = [entry for entry in entries if all(entry[trait] is holds for trait, holds in shared.items())]
        if members:
            yield heading, members


def markdown_table(entries: Sequence[Listed]) -> str:
    """The methods group by group with their traits, as a Markdown table.

    Args:
        entries: Of all methods.
    """
    lines = [f"| name | method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for heading, members in grouped(entries):
        lines.append(f"| | **{heading}** |{' |' * len(COLUMNS)}")
        for entry in members:
            marks = " | ".join("yes" if entry[trait] else "no" for trait in COLUMNS)
            lines.append(f"| `{entry['name']}` | {entry['title']} | {marks} |")
    return "\n".join(lines)
