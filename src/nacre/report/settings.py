"""Nested settings as entries of a page, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nacre.files import to_json


@dataclass(frozen=True)
class Entry:
    """A key with a text, or with entries of its own."""

    key: str
    text: str | None
    entries: tuple[Entry, ...] = ()


def entries_of(settings: Mapping[str, Any]) -> tuple[Entry, ...]:
    """The settings in the order of their keys, whatever order they came in: the same values give the same bytes."""
    return _entries(_canonical(settings))


def differing_keys(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose values are not the same in all the settings, sorted."""
    flat = [dict(_leaves("", _canonical(settings))) for settings in all_settings]
    keys = sorted({key for one in flat for key in one})
    return [key for key in keys if len({one.get(key) for one in flat}) > 1]


def _canonical(settings: Mapping[str, Any]) -> Any:
    return json.loads(to_json(dict(settings)))


def _entries(value: Any) -> tuple[Entry, ...]:
    pairs = value.items() if isinstance(value, dict) else ((str(number), one) for number, one in enumerate(value, 1))
    return tuple(_entry(key, one) for key, one in pairs)


def _entry(key: str, value: Any) -> Entry:
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return Entry(key, ", ".join(_text(one) for one in value) or "none")
    if isinstance(value, dict | list):
        return Entry(key, None if value else "none", _entries(value))
    return Entry(key, _text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, indent=None)


def _leaves(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, one in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, one)]
    return [(prefix, to_json(value, indent=None))]
