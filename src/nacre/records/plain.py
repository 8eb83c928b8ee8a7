"""Documents of plain values (settings, protocols): their leaves, and where two of them differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nacre.files import hash_of, to_json

NO_RESULT = ("output", "save_every", "track")
"""A recipe's keys that no result depends on: a run may be continued with others."""


def leaves(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a document that are not documents themselves.

    Args:
        document: Plain values at any depth; lists count as values.

    Returns:
        Dotted keys in the document's order, and their values.
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            flat.update({f"{key}.{inner}": leaf for inner, leaf in leaves(value).items()})
        else:
            flat[str(key)] = value
    return flat


def differing_keys(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose values are not the same in all the documents, sorted."""
    flat = [{key: to_json(value, indent=None) for key, value in leaves(document).items()} for document in documents]
    keys = sorted({key for document in flat for key in document})
    return [key for key in keys if len({document.get(key) for document in flat}) > 1]


def differences(there: Any, here: Any, key: str = "") -> list[str]:
    """Where two documents differ.

    Args:
        there: What is stored.
        here: What is wanted.
        key: The dotted key that both documents are the value of.

    Returns:
        A phrase for each difference: "KEY is VALUE there and VALUE here".
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            difference
            for name in sorted(set(there) | set(here), key=str)
            for difference in differences(there.get(name), here.get(name), f"{key}.{name}" if key else str(name))
        ]
    if _is_list(there) and _is_list(here) and len(there) == len(here):
        return [
            difference
            for number, (old, new) in enumerate(zip(there, here, strict=True), start=1)
            for difference in differences(old, new, f"{key}[{number}]")
        ]
    return [] if there == here else [f"{key} is {_short(there)} there and {_short(here)} here"]


def hash_of_recipe(document: Mapping[Any, Any]) -> str:
    """Hash of a recipe as its run's record holds it: of all settings that a result depends on.

    Args:
        document: The recipe's plain values.

    Raises:
        TypeError, ValueError: If they are not plain values.
    """
    kept = {key: value for key, value in document.items() if key not in NO_RESULT}
    return hash_of({**kept, "output": None})


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
