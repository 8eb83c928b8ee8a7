"""Nested settings as entries of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nacre.files import to_json


@dataclass(frozen=True)
class Entry:
    """A key with a text, or with entries of its own.

    Attributes:
        key: The key; of an item in a list, its number.
        text: The value; None where there are entries.
        entries: What the value holds.
    """

    key: str
    text: str | None
    entries: tuple[Entry, ...] = ()


def entries_of(settings: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Put settings into the order of their keys, whatever order they came in: the same values give the same bytes.

    Args:
        settings: Plain values at any depth.
    """
    return _entries(json.loads(to_json(dict(settings))))


def _entries(value: Any) -> tuple[Entry, ...]:
    pairs = value.items() if isinstance(value, dict) else ((str(number), item) for number, item in enumerate(value, 1))
    return tuple(_entry(key, item) for key, item in pairs)


def _entry(key: str, value: Any) -> Entry:
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return Entry(key, ", ".join(_text(item) for item in value) or "none")
    if isinstance(value, dict | list):
        return Entry(key, None if value else "none", _entries(value))
    return Entry(key, _text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, indent=None)
