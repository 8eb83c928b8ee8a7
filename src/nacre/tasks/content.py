"""What a protocol says of a task: its rows by content, not by file."""

from __future__ import annotations

from typing import Any

from nacre.files import hash_of
from nacre.tasks.task import SPLITS, Task


def task_content(task: Task) -> dict[str, Any]:
    """The task's name, metric, labels and template, how it was made, and the number and hash of each split's rows."""
    return {
        "name": task.name,
        **({"kind": task.kind} if task.kind == "text" else {}),
        **({"made": {key: made[key] for key in ("of", "by")}} if (made := task.source.get("made")) else {}),
        "metric": task.metric,
        "labels": list(task.labels) if task.labels else None,
        "template": task.template.described(),
        **({"test templates": [own.described() for own in task.test_templates]} if task.test_templates else {}),
        "rows": {split: len(task.rows(split)) for split in SPLITS},
        "hash": {split: hash_of([row.content for row in task.rows(split)]) for split in SPLITS},
    }
