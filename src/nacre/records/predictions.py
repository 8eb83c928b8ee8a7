"""The last row of a run's matrix, test row by test row, from the predictions that its stages stored."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacre.errors import CheckpointError
from nacre.files import safe_name
from nacre.records.run import Record

Scores = NDArray[np.float64]


class NotByRow(Exception):
    """Why a run's last row has no scores of single test rows, as the end of a sentence."""


def final_scores(run: Path, record: Record) -> list[Scores]:
    """Each task's scores after the last task, [n_j] in the order of its test rows; their mean is the matrix's entry.

    Where a task was answered last in an earlier stage (``independent`` keeps each task's own copy), its scores are
    those of that stage. Raises ``NotByRow`` if predictions are missing, or if a task's score is no mean over rows, and
    ``CheckpointError`` if exact-match predictions contradict the record.
    """
    files = _files(run, record.tasks)
    scores = []
    for index, task in enumerate(record.tasks):
        if task not in files:
            raise NotByRow(f"{run} holds no predictions for task '{task}'")
        scores.append(_scores(files[task], record, index))
    return scores


def _files(run: Path, tasks: Sequence[str]) -> dict[str, Path]:
    """For each task the predictions of the last stage that has any."""
    found: dict[str, Path] = {}
    folders = [path for path in (run / "tasks").glob("*-*") if path.name.split("-")[0].isdigit()]
    for folder in sorted(folders, key=lambda path: int(path.name.split("-")[0])):
        # A file's number is the task's place among those measured; two long names may be cut to the same beginning.
        waiting = list(tasks)
        for file in sorted((folder / "predictions").glob("*.jsonl.gz")):
            name = file.name.removesuffix(".jsonl.gz").partition("-")[2]
            task = next((task for task in waiting if safe_name(task) == name), None)
            if task is not None:
                waiting.remove(task)
                found[task] = file
    return found


def _scores(file: Path, record: Record, index: int) -> Scores:
    task, entries = record.tasks[index], _entries(file)
    protocol = _protocol(record, index)
    metric = protocol.get("metric", record.metric)
    if any("tokens" in entry for entry in entries):
        raise NotByRow(f"task '{task}' is unlabelled text, whose chunks are no rows")
    if metric != "exact_match" and not all("score" in entry for entry in entries):
        raise NotByRow(f"the score of task '{task}' ({metric}) is no mean over test rows")
    scores = np.array([float(entry.get("score", entry["right"])) for entry in entries])
    stored, counted = record.matrix[-1][index], protocol.get("rows", {}).get("test", len(scores))
    if stored is None or len(scores) != counted or abs(float(scores.mean()) - stored) > 1e-9:
        raise CheckpointError(
            f"{file} holds {len(scores)} answers with a mean score of {scores.mean():.4f}, which is not what "
            f"results.json says of task '{task}' after the last task; the files are of different runs, or damaged."
        )
    return scores


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().split("\n") if line]
        if entries and all("right" in entry for entry in entries):
            return entries
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
        pass
    raise CheckpointError(f"{file} is damaged: lines with 'answer', 'target' and 'right' are expected.")


def _protocol(record: Record, index: int) -> dict[str, Any]:
    """What the protocol says of one task."""
    tasks = record.protocol.get("tasks") or [{}] * len(record.tasks)
    found: dict[str, Any] = tasks[index]
    return found
