"""The test rows of learned tasks, by which later versions are measured: copied, read again, or given up."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nacre.errors import CheckpointError, DataError
from nacre.files import to_json
from nacre.learning.snapshot import as_tree, from_tree
from nacre.store.source import read_again
from nacre.store.store import Store
from nacre.store.version import LearnedTask
from nacre.tasks.task import Task


def written_rows(task: Task) -> bytes:
    """The content of a file that holds a task's test rows, with all that asking and scoring them needs."""
    rows = tuple(replace(row, place="") for row in task.test)
    tree = as_tree(replace(task, train=(), validation=(), test=rows, source=made_of(task)), task.name)
    return gzip.compress(to_json(tree, indent=None).encode(), mtime=0)


def test_rows_of(store: Store, entry: LearnedTask) -> Task | None:
    """A learned task with its test rows.

    Args:
        store: Where.
        entry: What a version says of it.

    Returns:
        The task; its training rows are the test rows. None where nothing was kept of them.

    Raises:
        CheckpointError: If the copy is damaged.
        DataError: If they are read again, and are not what they were.
    """
    if entry.file is not None:
        return _copied(store.check_rows(entry.file))
    if entry.test_rows == "hash":
        return None
    try:
        return read_again(entry, entry.data, store.settings.identity)
    except DataError as error:
        raise DataError(
            f"The test rows of task '{entry.name}' are not there any more, and the store holds no copy (test_rows="
            f"reference): {error}"
        ) from None


def made_of(task: Task) -> dict[str, Any]:
    """Of a task's source, what is part of its content."""
    return {key: value for key, value in task.source.items() if key == "made"}


def _copied(file: Path) -> Task:
    try:
        tree = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        raise CheckpointError(f"{file} is damaged: it does not hold a task's rows.") from None
    task = from_tree(Task, tree, str(file), torch.device("cpu"))
    return replace(task, train=task.test)
