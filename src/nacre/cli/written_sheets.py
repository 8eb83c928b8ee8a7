"""The sheets of nacre's own methods and modifiers, written down: building a method to print its sheet takes torch.

`python -m nacre.cli.written_sheets` writes them anew, from the methods themselves; a test compares the two.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacre.registry import Registry

FILE = Path(str(files("nacre.assets"))) / "sheets.json"


def written_sheet(registry: Registry, name: str) -> dict[str, Any] | None:
    """The sheet of a method or modifier, as `nacre.cli.sheets` would build it.

    Args:
        registry: Of methods or of modifiers.
        name: A single name.

    Returns:
        The sheet; None for what is not written down, or was changed since then.
    """
    entry = _entries().get(registry.kind, {}).get(name)
    if entry is None or entry["source"] != source_hash(registry, name):
        return None
    sheet: dict[str, Any] = entry["sheet"]
    return {**sheet, "parameters": {key: _value(value) for key, value in sheet["parameters"].items()}}


def source_hash(registry: Registry, name: str) -> str:
    """sha256 of the file that holds one of nacre's own methods or modifiers.

    Args:
        registry: Of methods or of modifiers.
        name: A single name.
    """
    return sha256((files(registry.package) / f"{name}.py").read_bytes()).hexdigest()


def all_sheets() -> dict[str, Any]:
    """What the file should hold."""
    from nacre.cli.built_sheets import built_method_sheet, built_modifier_sheet
    from nacre.registry import METHODS, MODIFIERS

    return {
        registry.kind: {
            name: {"source": source_hash(registry, name), "sheet": json.loads(json.dumps(build(name)))}
            for name in registry.own_names()
        }
        for registry, build in ((METHODS, built_method_sheet), (MODIFIERS, built_modifier_sheet))
    }


@cache
def _entries() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def _value(value: Any) -> Any:
    """A default as Python has it: JSON knows no tuples, and methods take no lists."""
    return tuple(_value(item) for item in value) if isinstance(value, list) else value


if __name__ == "__main__":
    FILE.write_text(json.dumps(all_sheets(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
