"""Short names that stay apart: of runs beside each other, and of tasks in narrow places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from unicodedata import combining, east_asian_width

from markupsafe import Markup, escape

from nacre.records.run import RunRecord


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """Name each run by its method, and by what of stream, model, seed and parameters tells the runs apart.

    Args:
        records: The runs'.
    """
    names = [record.method for record in records]
    for field, word in (("stream", ""), ("model", ""), ("seed", "seed ")):
        values = [getattr(record, field) for record in records]
        if field == "model" and len(set(map(short_place, values))) == len(set(values)):
            values = [short_place(value) for value in values]
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


def breakable(name: str) -> Markup:
    """A name that a narrow window may break after each "+", rather than anywhere.

    Args:
        name: Any text, such as `seq_lora+migu`.

    Returns:
        HTML.
    """
    return Markup("+<wbr>").join(escape(part) for part in name.split("+"))


def columns(text: str) -> int:
    """Columns of a fixed-width line that a text takes: wide characters count twice, combining ones not at all.

    Args:
        text: The text.
    """
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def shorten(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis.

    Args:
        text: The text.
        width: Columns that it may take.
    """
    if columns(text) <= width:
        return text
    room = width - 1
    for place, letter in enumerate(text):
        room -= columns(letter)
        if room < 0:
            return f"{text[:place].rstrip()}…"
    return text
