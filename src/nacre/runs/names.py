"""What tells runs apart, as the name of a folder: stream, method, model, changed settings, seed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nacre.errors import NacreError
from nacre.files import hash_of
from nacre.method_files import MethodFile
from nacre.models.named import DEMO
from nacre.registry import build_method

SPELLED_OUT = 3
"""So many changed settings, at most, are spelled out; more of them are a hash."""


def run_name(
    method: str, stream: str, model: str, seed: int, parameters: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    """The name of a run's folder where a recipe says none.

    Args:
        method: As the recipe has it.
        stream: The stream's name, or its tasks with dashes between them.
        model: As the recipe has it.
        seed: The run's.
        parameters: The method's, as the recipe has them.
        settings: The recipe's other keys that do not have their usual value.
    """
    changed = {**_changed(method, parameters), **dict(_flat(settings))}
    spelled = [_spelled(key, value) for key, value in sorted(changed.items())]
    if len(spelled) > SPELLED_OUT or None in spelled:
        spelled = [hash_of(changed)[:8]]
    where = "" if model == DEMO else Path(model).name
    pieces = [method_name(method), where, *(text or "" for text in spelled), f"seed{seed}"]
    return "-".join([stream, *(re.sub(r"[^\w.+-]+", "_", piece) for piece in pieces if piece)])


def method_name(name: str) -> str:
    """A method's name for tables and folders: of one in a file, without the folder.

    Args:
        name: As a recipe has it.
    """
    base, *modifiers = name.split("+")
    file = MethodFile.of(base)
    return "+".join([base if file is None else file.short_name, *modifiers])


def _changed(method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that are not what they would be if nobody had said anything."""
    usual = _usual(method)
    return {key: value for key, value in _flat(parameters) if key not in usual or usual[key] != value}


def _usual(name: str) -> dict[str, Any]:
    try:
        return dict(_flat(build_method(name).parameters))
    except NacreError:  # one that cannot be without parameters, or that has no name
        return {}


def _flat(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", list(value) if isinstance(value, tuple) else value


def _spelled(key: str, value: Any) -> str | None:
    """`rank4` for rank = 4; None for what is no short plain value."""
    text = f"{key.rpartition('.')[2]}{value:g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}{value}"
    return text if isinstance(value, bool | int | float | str) and len(text) <= 30 else None
