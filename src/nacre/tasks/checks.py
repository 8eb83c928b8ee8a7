"""What is odd about a stream's rows: texts that stand in two splits or two tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nacre.tasks.task import Row, Task


def check_stream(tasks: Sequence[Task]) -> dict[str, Any]:
    """Counts of exact repeats (white space normalized), per task and between tasks; and where the rows came from."""
    trained = {task.name: _texts(task.train) for task in tasks}
    return {
        "tasks": {task.name: {"source": dict(task.source), **_repeats(task)} for task in tasks},
        "test rows that another task trains on": {
            f"{task.name} in {other}": count
            for task in tasks
            for other, texts in trained.items()
            if other != task.name and (count := _hits(task.test, texts))
        },
    }


def _repeats(task: Task) -> dict[str, int]:
    train, validation = _texts(task.train), _texts(task.validation)
    return {
        "test rows in train": _hits(task.test, train),
        "test rows in validation": _hits(task.test, validation),
        "validation rows in train": _hits(task.validation, train),
        "repeated train rows": len(task.train) - len(train),
    }


def _texts(rows: Iterable[Row]) -> set[str]:
    return {" ".join(row.text.split()) for row in rows}


def _hits(rows: Iterable[Row], texts: set[str]) -> int:
    return sum(" ".join(row.text.split()) in texts for row in rows)
