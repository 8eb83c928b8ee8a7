"""Where two documents of plain values differ, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def differences(there: Any, here: Any, key: str = "") -> list[str]:
    """In words, where two documents of plain values differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        found = []
        for name in sorted(set(there) | set(here), key=str):
            found += differences(there.get(name), here.get(name), f"{key}.{name}" if key else str(name))
        return found
    if (
        isinstance(there, Sequence)
        and isinstance(here, Sequence)
        and not isinstance(there, str)
        and len(there) == len(here)
    ):
        found = []
        for number, (old, new) in enumerate(zip(there, here, strict=True), start=1):
            found += differences(old, new, f"{key}[{number}]")
        return found
    return [] if there == here else [f"{key} is {_short(there)} there and {_short(here)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
