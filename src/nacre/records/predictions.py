"""Predictions on disk: what a stage's folder holds of each measured task, written and read here only.

A stage's folder has `predictions/NN-TASK.jsonl.gz`, where NN counts the tasks that were measured at that stage. A line
holds a test row's answer, target and whether it is right, with its score where the metric gives rows scores that are
not just right or wrong; of unlabeled text, the right and all predicted tokens of a chunk. Where a task is measured for
the last time, a line holds the row's input, too: at every stage, inputs would be most of a run's bytes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacre.errors import CheckpointError
from nacre.evaluation.perplexity import TextScore
from nacre.evaluation.scoring import TaskScore
from nacre.files import numbered_name, safe_name
from nacre.manifest import read_manifest
from nacre.records.run import RunRecord
from nacre.tasks.task import Task

RowScores = NDArray[np.float64]

FOLDER, ENDING = "predictions", ".jsonl.gz"


class NotByRow(Exception):
    """Why a run's last row has no scores of single test rows, as the end of a sentence."""


@dataclass(frozen=True)
class Answered:
    """The answer to a test row.

    Attributes:
        input: The row's text; None in runs from before it was kept.
        answer: What the model wrote.
        target: What it should have written.
        score: By the task's metric, or whether it is right.
    """

    input: str | None
    answer: str
    target: str
    score: float


def write_predictions(
    stage: Path, answered: Mapping[str, tuple[Task, TaskScore]], texts: Mapping[str, TextScore], *, inputs: bool
) -> None:
    """Write what was predicted at a stage.

    Args:
        stage: The stage's folder.
        answered: Each task with targets and its answers, by name.
        texts: The scores of tasks of unlabeled text, by name.
        inputs: Whether to write the rows' inputs, too.
    """
    folder = stage / FOLDER
    folder.mkdir()
    lines = {name: _answer_lines(task, score, inputs) for name, (task, score) in answered.items()}
    lines |= {name: _text_lines(score) for name, score in texts.items()}
    for number, (name, own) in enumerate(lines.items(), start=1):
        content = "\n".join(own) + "\n"
        (folder / f"{numbered_name(number, name)}{ENDING}").write_bytes(gzip.compress(content.encode(), mtime=0))


def read_predictions(stage: Path, number: int, task: str) -> list[dict[str, Any]]:
    """Read what was predicted of a task at a stage.

    Args:
        stage: The stage's folder.
        number: Of the task among those that were measured there, from 1.
        task: Its name.

    Returns:
        A line for each test row, as `write_predictions` writes it.

    Raises:
        CheckpointError: If the file is missing or damaged, or is not the one that was written.
    """
    return _entries(stage / FOLDER / f"{numbered_name(number, task)}{ENDING}")


def final_scores(run: Path, record: RunRecord) -> list[RowScores]:
    """Read the last row of a run's matrix, test row by test row.

    Where a task was answered last in an earlier stage (`independent` keeps each task's own copy), its scores are those
    of that stage.

    Args:
        run: The run's folder.
        record: Its record.

    Returns:
        Each task's scores after the last task, [n_j] in the order of its test rows; their mean is the matrix's entry.

    Raises:
        NotByRow: If predictions are missing, or if a task's score is not a mean over rows.
        CheckpointError: If predictions contradict the record, or are not those that were written.
    """
    files = _last_files(run, record.tasks)
    scores = []
    for index, task in enumerate(record.tasks):
        if task not in files:
            raise NotByRow(f"{run} holds no predictions for task '{task}'")
        scores.append(_scores(files[task], record, index))
    return scores


def final_answers(run: Path, record: RunRecord) -> dict[str, list[Answered]]:
    """Read what a run answered at its end.

    Args:
        run: The run's folder.
        record: Its record.

    Returns:
        The answers of each task with targets, in the order of its test rows; tasks without predictions are left out.

    Raises:
        CheckpointError: If a file is damaged, or is not the one that was written.
    """
    entries = {task: _entries(file) for task, file in _last_files(run, record.tasks).items()}
    return {
        task: [
            Answered(line.get("input"), line["answer"], line["target"], float(line.get("score", line["right"])))
            for line in lines
        ]
        for task, lines in entries.items()
        if all("answer" in line and "target" in line for line in lines)
    }


def _answer_lines(task: Task, score: TaskScore, inputs: bool) -> Iterable[str]:
    by_row = score.by_row if task.metric != "exact_match" else None
    extra = [{}] * len(score.answers) if by_row is None else [{"score": value} for value in by_row]
    for answer, row, right, scored in zip(score.answers, task.test, score.right, extra, strict=True):
        asked = {"input": row.text} if inputs else {}
        line = {**asked, "answer": answer, "target": row.target, "right": right, **scored}
        yield json.dumps(line, ensure_ascii=False)


def _text_lines(score: TextScore) -> Iterable[str]:
    for right, tokens in zip(score.right, score.tokens, strict=True):
        yield json.dumps({"right": right, "tokens": tokens})


def _last_files(run: Path, tasks: Sequence[str]) -> dict[str, Path]:
    """For each task the predictions of the last stage that has any."""
    last: dict[str, Path] = {}
    stages = [path for path in (run / "tasks").glob("*-*") if path.name.split("-")[0].isdigit()]
    for stage in sorted(stages, key=lambda path: int(path.name.split("-")[0])):
        # A file's number is the task's place among those measured; two long names may be cut to the same beginning.
        waiting = list(tasks)
        for file in sorted((stage / FOLDER).glob(f"*{ENDING}")):
            name = file.name.removesuffix(ENDING).partition("-")[2]
            task = next((task for task in waiting if safe_name(task) == name), None)
            if task is not None:
                waiting.remove(task)
                last[task] = file
    return last


def _scores(file: Path, record: RunRecord, index: int) -> RowScores:
    task, entries = record.tasks[index], _entries(file)
    protocol = _protocol(record, index)
    metric = protocol.get("metric", record.metric)
    if any("tokens" in entry for entry in entries):
        raise NotByRow(f"task '{task}' is unlabeled text, whose chunks are not rows")
    if metric != "exact_match" and not all("score" in entry for entry in entries):
        raise NotByRow(f"the score of task '{task}' ({metric}) is not a mean over test rows")
    scores = np.array([float(entry.get("score", entry["right"])) for entry in entries])
    stored, counted = record.matrix[-1][index], protocol.get("rows", {}).get("test", len(scores))
    if stored is None or len(scores) != counted or abs(float(scores.mean()) - stored) > 1e-9:
        raise CheckpointError(
            f"{file} holds {len(scores)} answers with a mean score of {scores.mean():.4f}, which is not what "
            f"results.json says of task '{task}' after the last task; the files are of different runs, or damaged."
        )
    return scores


def _entries(file: Path) -> list[dict[str, Any]]:
    """The lines of a file that is as it was written."""
    stage = file.parents[1]
    read_manifest(stage).check_bytes(stage, f"{FOLDER}/{file.name}")
    try:
        entries = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().split("\n") if line]
        if entries and all("right" in entry for entry in entries):
            return entries
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
        pass
    raise CheckpointError(f"{file} is damaged: lines with 'answer', 'target' and 'right' are expected.")


def _protocol(record: RunRecord, index: int) -> dict[str, Any]:
    """What the protocol says of one task."""
    tasks: list[dict[str, Any]] = record.protocol.get("tasks") or [{}] * len(record.tasks)
    return tasks[index]
