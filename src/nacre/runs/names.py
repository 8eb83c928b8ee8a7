"""What tells runs apart, as the name of a folder: stream, method, model, changed settings, seed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacre.errors import NacreError
from nacre.files import hash_of
from nacre.method_files import MethodFile
from nacre.models.named import DEMO
from nacre.registry import build_method

if TYPE_CHECKING:
    from nacre.method import Method
    from nacre.runs.recipe import Recipe

ELSEWHERE = {"method", "method_hash", "parameters", "stream", "model", "data", "seed", "output"}
"""Keys that the name does not list as changed settings."""

SPELLED_OUT = 3
"""So many changed settings, at most, are spelled out; more of them are a hash."""


def run_name(recipe: Recipe, method: Method) -> str:
    """The name of a run's folder where a recipe says none.

    Args:
        recipe: The run's; what it does not say has its default.
        method: The recipe's.
    """
    stream = recipe.stream_name if isinstance(recipe.stream, str) else "-".join(recipe.stream)
    model = "" if recipe.model == DEMO else Path(recipe.model).name
    changed = dict(_changed(recipe, method))
    spelled = [_spelled(key, value) for key, value in sorted(changed.items())]
    if len(spelled) > SPELLED_OUT or None in spelled:
        spelled = [hash_of(changed)[:8]]
    pieces = [stream, method_name(recipe.method), model, *(text or "" for text in spelled), f"seed{recipe.seed}"]
    return "-".join(re.sub(r"[^\w.+-]+", "_", piece) if piece != stream else piece for piece in pieces if piece)


def method_name(name: str) -> str:
    """A method's name for tables and folders: of one in a file, without the folder.

    Args:
        name: As a recipe has it.
    """
    base, *modifiers = name.split("+")
    file = MethodFile.of(base)
    return "+".join([base if file is None else file.short_name, *modifiers])


def _changed(recipe: Recipe, method: Method) -> Iterator[tuple[str, Any]]:
    """Settings that are not what they would be if nobody had said anything, by key."""
    usual = _usual(recipe.method)
    for key, value in _flat(recipe.parameters):
        if key not in usual or usual[key] != value:
            yield key, value
    document = recipe.model_dump(mode="json", exclude_defaults=True, exclude=ELSEWHERE)
    for key, value in _flat(document):
        if key == "optim.learning_rate" and value == method.adapter.learning_rate:
            continue
        yield key, value


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
