"""Tiny files in the format of the fifteen published tasks, with rows of every label and news with datelines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nacre.tasks.published.catalog import CATALOG, KnownTask
from nacre.tasks.task import SPLITS, Split

ROWS: dict[Split, int] = {"train": 14, "validation": 12, "test": 13}
"""Rows of each label."""
DATELINES = ("sea (Reuters) - {}", "AP - {}", "{}", "{}", "{} by Reuters")
"""Of articles: two of an agency, two of none, and one whose agency the rule cannot tell."""
SHORT = {"dbpedia": ("cat", "cow"), "yahoo": ("red", "blue"), "amazon": ("big", "old")}
"""Label sets that leave room in 64 tokens."""

_WORDS = "the big old new sees near under one two three four dog cat cow hen stone".split()


def text_of(task: str, split: str, label: int, number: int) -> str:
    """The text of a row: another one for each task, split, label and number, in words that tiny hosts know."""
    place = sum(map(ord, task)) * 7 + SPLITS.index(split) * 5 + label  # type: ignore[arg-type]
    words = " ".join(_WORDS[(place // 16**digit) % 16] for digit in range(3))
    return f"{words} {_WORDS[number]} {task} {split} {label}"


def write_release(
    folder: Path, labels: Mapping[str, Sequence[str]] | None = None, tasks: Sequence[KnownTask] = CATALOG
) -> Path:
    """A folder for each task, as JSON lines. labels: other label sets than the published ones, by task."""
    for task in tasks:
        own = (labels or {}).get(task.name, task.labels)
        place = folder / task.name
        place.mkdir(parents=True)
        for split in SPLITS:
            rows = [
                {"text": _article(task.name, split, index, number), "label": label}
                for number in range(ROWS[split])
                for index, label in enumerate(own)
            ]
            (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (place / "task.json").write_text(json.dumps({"labels": list(own)}))
    return folder


def _article(task: str, split: Split, label: int, number: int) -> str:
    text = text_of(task, split, label, number)
    return DATELINES[(number + label) % 5].format(text) if task == "agnews" else text
