"""Short names that stay apart: of runs beside each other, and of tasks in narrow places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from unicodedata import combining, east_asian_width

from nacre.records.run import RunRecord


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """One name a run: the method, and of stream, model, seed and parameters what tells the runs apart."""
    names = [record.method for record in records]
    for field, word in (("stream", ""), ("model", ""), ("seed", "seed ")):
        values = [getattr(record, field) for record in records]
        if len(set(values)) > 1:
            names = [f"{name}, {word}{value}" for name, value in zip(names, values, strict=True)]
    names = [_with_parameters(index, names, records) for index in range(len(records))]
    return _numbered(names)


def _with_parameters(index: int, names: Sequence[str], records: Sequence[RunRecord]) -> str:
    twins = [record.parameters for record, name in zip(records, names, strict=True) if name == names[index]]
    own = records[index].parameters
    differing = [key for key in sorted(own) if any(twin.get(key) != own[key] for twin in twins)]
    return ", ".join([names[index], *(f"{key}={own[key]}" for key in differing)])


def _numbered(names: Sequence[str]) -> list[str]:
    total, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return numbered


def short_place(name: str) -> str:
    """A model's name for a page that is sent around: of a folder its last part, of a name in a hub all of it.

    Args:
        name: As the recipe has it.
    """
    return PurePath(name).name if PurePath(name).is_absolute() else name


def columns(text: str) -> int:
    """Columns of a fixed-width line that the text takes: wide characters count twice, combining ones not at all."""
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def shorten(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis, in at most `width` columns."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"
