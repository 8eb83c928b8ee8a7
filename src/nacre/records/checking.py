"""Whether a record can be true: its shapes, what it derives from its own numbers, and what its stages say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nacre.evaluation.matrix import run_metrics
from nacre.files import hash_of
from nacre.manifest import MANIFEST, read_manifest
from nacre.records.run import RunRecord
from nacre.records.stage import ROW, StageRow, read_document

TOLERANCE = 1e-9
"""Sums of the same numbers, computed by two versions of a library."""


def problem_of(record: RunRecord, folder: Path) -> str | None:
    """What is wrong with a record, in a phrase that begins with the culprit's key; None if nothing is.

    Args:
        record: What `results.json` says.
        folder: Of the run. Its stages are compared as far as they are there.

    Raises:
        CheckpointError: If a stage is damaged.
    """
    return next(_shapes(record), None) or next(_derived(record), None) or next(_stages(record, folder), None)


def _shapes(record: RunRecord) -> Iterator[str]:
    tasks = len(record.tasks)
    if not tasks or len(set(record.tasks)) < tasks:
        yield f"tasks: {tasks} names, of which {len(set(record.tasks))} are different"
    matrices = {"matrix": record.matrix, "valid_answers": record.valid_answers, "perplexity": record.perplexity}
    for key, matrix in matrices.items():
        if matrix is not None and [len(row) for row in matrix] != [tasks] * (tasks + 1):
            yield f"{key}: {tasks + 1} rows of {tasks} values are expected for {tasks} tasks"
    training = record.training
    lists: dict[str, tuple[Sequence[object], int]] = {
        "seconds.train": (record.seconds.train, tasks),
        "seconds.evaluate": (record.seconds.evaluate, tasks + 1),
        "trainable_parameters_per_task": (record.trainable_parameters_per_task, tasks),
        "training.tokens": (training.tokens if training else [None] * tasks, tasks),
        "training.positions": (training.positions if training else [None] * tasks, tasks),
        "pseudo_rows": (record.pseudo_rows or [None] * tasks, tasks),
    }
    for key, (values, expected) in lists.items():
        if len(values) != expected:
            yield f"{key}: {len(values)} values, and {expected} are expected for {tasks} tasks"
    decisions = record.decisions
    if decisions is not None and not {*decisions.tasks, *decisions.taken_for} <= set(record.tasks):
        yield "decisions.tasks: other tasks than the record's"
    described = _described(record)
    if described is None or (described and [task.get("name") for task in described] != record.tasks):
        yield "protocol.tasks: other tasks than the record's"


def _derived(record: RunRecord) -> Iterator[str]:
    if record.protocol_hash != (expected := hash_of(record.protocol)):
        yield f"protocol_hash: {record.protocol_hash[:12]}, and the protocol's hash is {expected[:12]}"
    counts = [_test_rows(task) for task in _described(record) or [{}] * len(record.tasks)]
    for key, value in run_metrics(record.matrix, [count or 0 for count in counts]).items():
        if key == "pooled_accuracy" and None in counts:
            continue  # it weighs tasks by their rows, which only the protocol tells
        if key not in record.model_fields_set:
            continue  # the record is from before the metric was kept
        yield from _other(key, getattr(record, key), value, "the matrix")
    last = record.trainable_parameters_per_task[-1]
    yield from _other("trainable_parameters", record.trainable_parameters, last or 0, "the last task's number")
    training = record.training
    if training is not None:
        tokens, positions = (sum(value or 0 for value in each) for each in (training.tokens, training.positions))
        share = 1 - tokens / positions if positions else None
        yield from _other("training.padding_share", training.padding_share, share, "the tokens")
        learned = [pair for pair in zip(training.tokens, record.seconds.train, strict=True) if pair[0] and pair[1]]
        seconds = sum(second or 0 for _, second in learned)
        speed = sum(token or 0 for token, _ in learned) / seconds if learned else None
        yield from _other("seconds.tokens_per_second", record.seconds.tokens_per_second, speed, "the tokens")
    if record.decisions is not None:
        yield from record.decisions.problems()
        tests = dict(zip(record.tasks, counts, strict=True))
        for task, rows in zip(record.decisions.tasks, record.decisions.rows, strict=True):
            yield from _other(f"decisions.counts of {task}", rows, tests[task] or rows, "the protocol")
    for probe in record.probes:
        yield from probe.problems()


def _stages(record: RunRecord, folder: Path) -> Iterator[str]:
    for stage in sorted((folder / "tasks").glob(f"*/{MANIFEST}")):
        manifest = read_manifest(stage.parent)
        if ROW not in manifest.sha256:
            continue
        manifest.check_bytes(stage.parent, ROW)
        row = read_document(StageRow, stage.parent / ROW)
        where = stage.parent / ROW
        if row.row >= len(record.matrix):
            yield f"matrix: it has {len(record.matrix)} rows, and {where} is row {row.row}"
            return
        for key, here, there in (
            ("matrix", record.matrix[row.row], row.scores),
            ("valid_answers", record.valid_answers[row.row], row.valid),
            ("perplexity", (record.perplexity or {row.row: []})[row.row], row.perplexity),
            ("seconds.evaluate", record.seconds.evaluate[row.row], row.evaluate_seconds),
            ("decisions", record.decisions if row.row == len(record.tasks) else None, row.decisions),
            *(_of_learning(record, row) if row.row else ()),
        ):
            if here != there:
                yield f"{key}: row {row.row} is {here}, and {where} says {there}"


def _of_learning(record: RunRecord, row: StageRow) -> Iterator[tuple[str, object, object]]:
    task = row.row - 1
    yield "seconds.train", record.seconds.train[task], row.train_seconds
    yield "trainable_parameters_per_task", record.trainable_parameters_per_task[task], row.trainable_parameters
    yield "pseudo_rows", (record.pseudo_rows or {task: []})[task], row.pseudo_rows
    if record.training is not None:
        yield "training.tokens", record.training.tokens[task], row.train_tokens
        yield "training.positions", record.training.positions[task], row.train_positions


def _other(key: str, here: float | None, expected: float | None, source: str) -> Iterator[str]:
    same = here is expected is None
    if here is not None and expected is not None:
        same = math.isclose(here, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if not same:
        yield f"{key}: {here}, and {source} gives {expected}"


def _described(record: RunRecord) -> list[dict[str, Any]] | None:
    """What the protocol says of each task; [] if it says nothing, None if it cannot be read."""
    tasks = record.protocol.get("tasks", [])
    readable = isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks)
    return tasks if readable else None


def _test_rows(task: dict[str, Any]) -> int | None:
    rows = task.get("rows")
    count = rows.get("test") if isinstance(rows, dict) else None
    return count if isinstance(count, int) and count >= 0 else None
