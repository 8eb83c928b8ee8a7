"""Settings as people write them, key by key: documents in YAML, and KEY=VALUE on a command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from nacre.documents import DocumentError, parse_yaml, shown_text
from nacre.errors import RecipeError
from nacre.files import read_yaml
from nacre.settings import Settings, keys_of, sentence

S = TypeVar("S", bound=Settings)

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)e[-+]?[0-9]+|[-+]?inf|nan", re.IGNORECASE)


def validated(kind: type[S], document: dict[str, Any], where: str = "") -> S:
    """Settings from plain values.

    Args:
        kind: The settings' type.
        document: Their values by key.
        where: What an error begins with, such as `Recipe 'a.yaml'`; empty for nothing.

    Raises:
        RecipeError: If something is wrong; it names the key and the value.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{where + ', ' if where else ''}{sentence(error, kind)}") from None


def read_document(path: Path, kind: str = "Recipe") -> dict[str, Any]:
    """The keys and values of a recipe's file, or of another one that is written so.

    Args:
        path: The file.
        kind: What an error calls it.

    Raises:
        RecipeError: If there is no such file, or if it does not hold keys and values.
    """
    if not path.is_file():
        raise RecipeError(f"{kind} '{path}' does not exist or is not a file.")
    try:
        document = read_yaml(path)
    except OSError as error:
        raise RecipeError(f"{kind} '{path}' cannot be read: {error.strerror or error}.") from error
    except DocumentError as error:
        raise RecipeError(f"{kind} '{path}' {error}.") from None
    if not isinstance(document, dict):
        raise RecipeError(f"{kind} '{path}' must hold keys and values, such as 'method: am_lora'.")
    return {key: with_numbers(value) for key, value in document.items()}


def assign(document: dict[str, Any], setting: str, kind: type[Settings]) -> None:
    """Put a setting from a command line into a document.

    Args:
        document: Receives it.
        setting: KEY=VALUE, the key dotted inside a group, the value in YAML.
        kind: The settings' type; see `put`.

    Raises:
        RecipeError: If it is not written so.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"--set {shown_text(setting)}: write KEY=VALUE, for example --set rank=4 or --set optim.batch_size=16."
        )
    try:
        value = parse_yaml(text)
    except DocumentError as error:
        raise RecipeError(f"--set {shown_text(setting)}: the value {error}.") from None
    put(document, key, with_numbers(value), kind)


def put(document: dict[str, Any], key: str, value: Any, kind: type[Settings]) -> None:
    """Put a value into a document.

    Args:
        document: Receives it.
        key: Dotted inside a group.
        value: A plain value.
        kind: The settings' type. Whatever is not a key of theirs is a parameter of the method, under `set`.

    Raises:
        RecipeError: If the key cannot be one.
    """
    path = key.split(".")
    if len(path) > 5:
        raise RecipeError(f"--set {shown_text(key)}: no key has so many parts.")
    if path[0] not in keys_of(kind):
        path = ["set", *path]
    place = document
    for name in path[:-1]:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise RecipeError(f"--set {shown_text(key)}: '{shown_text(name)}' is a single value and has no keys.")
    place[path[-1]] = value


def with_numbers(value: Any) -> Any:
    """YAML reads 1e-3 as a string, everybody else as a number."""
    if isinstance(value, dict):
        return {key: with_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
