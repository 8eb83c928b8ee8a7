"""What a page shows of a run: its record, and what lies beside it in its folder, the losses and the last answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacre.files import read_bytes
from nacre.records.predictions import Answered, final_answers
from nacre.records.run import RunRecord

SHOWN = 3
"""Answers of each kind that are kept for a task."""

MOST_POINTS = 120
"""Readings of the loss that are kept for a stage."""


@dataclass(frozen=True)
class LossCurve:
    """The loss while one stage was learned.

    Attributes:
        name: The stage's: its task's, if it has one only.
        steps: How many steps it had.
        readings: Steps, from 1, and the losses read there.
    """

    name: str
    steps: int
    readings: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TaskSamples:
    """Some of a task's answers at the end of a run.

    Attributes:
        task: The task.
        worst: The first of its rows with the lowest score.
        best: The first of its rows with the highest score.
    """

    task: str
    worst: tuple[Answered, ...]
    best: tuple[Answered, ...]


@dataclass(frozen=True)
class RunView:
    """A run as a page shows it.

    Attributes:
        record: The run's record.
        losses: Of each stage; empty where the events are not there.
        samples: Of each task that was answered; empty where predictions are not there.
    """

    record: RunRecord
    losses: tuple[LossCurve, ...] = field(default=())
    samples: tuple[TaskSamples, ...] = field(default=())


def view_of(run: Path, record: RunRecord) -> RunView:
    """Read what a page shows beside the record.

    Args:
        run: The run's folder.
        record: Its record.

    Raises:
        CheckpointError: If predictions are damaged.
    """
    answers = final_answers(run, record)
    samples = tuple(_samples(task, answers[task]) for task in record.tasks if task in answers)
    return RunView(record, tuple(_losses(run / "events.jsonl")), samples)


def _samples(task: str, answers: Sequence[Answered]) -> TaskSamples:
    """Rows that are not among the worst can be the best, and the other way round: all right has no worst."""
    worst, best = (end(answer.score for answer in answers) for end in (min, max))
    middle = (worst + best) / 2 if worst < best else 0.5
    low = [answer for answer in sorted(answers, key=lambda answer: answer.score) if answer.score < middle]
    high = [answer for answer in sorted(answers, key=lambda answer: -answer.score) if answer.score >= middle]
    return TaskSamples(task, tuple(low[:SHOWN]), tuple(high[:SHOWN]))


def _losses(events: Path) -> list[LossCurve]:
    """The losses of each stage as it was learned at last: a stage that was interrupted is learned again."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    current: list[Mapping[str, Any]] | None = None
    for event in _events(events):
        if event.get("event") == "stage":
            current = stages[str(event.get("name"))] = []
        elif event.get("event") == "step" and current is not None:
            current.append(event)
        elif event.get("event") == "evaluate":
            current = None  # steps of a probe's copies are not of the run
    return [curve for name, steps in stages.items() if (curve := _curve(name, steps)).readings]


def _curve(name: str, steps: Sequence[Mapping[str, Any]]) -> LossCurve:
    read = [(step.get("step"), step.get("loss")) for step in steps]
    known = [
        (number, float(loss))
        for number, loss in read
        if isinstance(number, int) and isinstance(loss, int | float) and math.isfinite(loss)
    ]
    every = -(-len(known) // MOST_POINTS) or 1
    thinned = [*known[:-1][::every], *known[-1:]]
    return LossCurve(name, max((number for number, _ in known), default=0), tuple(thinned))


def _events(path: Path) -> list[Mapping[str, Any]]:
    """The events; a line that a killed process did not finish is left out."""
    if not path.exists():
        return []
    events: list[Mapping[str, Any]] = []
    for line in read_bytes(path).decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
