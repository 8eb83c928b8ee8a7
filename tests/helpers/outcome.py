"""What a run leaves behind, and whether two runs left the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from nacre.files import sha256
from nacre.records.plain import NO_RESULT

TIMES = {"seconds", "peak_rss_bytes", "train_seconds", "evaluate_seconds", "finished"}
HASH = "sha256"  # of times, too
BY_CONTENT = {"results.json", "row.json"}  # hold times beside what must be the same
NOT_COMPARED = {"events.jsonl", "report.html", "manifest.json", "recipe.yaml", ".lock"}


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves behind and that no clock has part in: file -> hash or content."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in BY_CONTENT:
            document = json.loads(path.read_text())
            found[name] = {key: value for key, value in document.items() if key not in TIMES | {HASH}}
        elif path.is_dir() or path.name in NOT_COMPARED:
            found[name] = None
        else:
            found[name] = sha256(path)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    found["settings"] = {key: value for key, value in recipe.items() if key not in NO_RESULT}
    return found


def assert_same(folder: Path, other: Path) -> None:
    here, there = outcome(folder), outcome(other)
    assert {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)} == set()
    assert [name for name in here if name.endswith("/adapter.safetensors")]
