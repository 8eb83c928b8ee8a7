"""How a learner answers test rows: by its method's readout, or by the host, freely or among labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from nacre.errors import DataError
from nacre.evaluation.candidates import Calibration, Candidates
from nacre.evaluation.decoding import answer, in_batches, token_budget
from nacre.evaluation.settings import Decoding
from nacre.evaluation.spelling import as_labels
from nacre.events import RowsAnswered
from nacre.learning.routed_labels import RoutedLabels
from nacre.learning.router import LearnerRouter, Routed
from nacre.learning.snapshot import State
from nacre.method import Method
from nacre.models.families import Encoded, Lengths
from nacre.parts.part import Readout
from nacre.parts.slots_of_tasks import tasks_of_slots
from nacre.tasks.task import Task

R = TypeVar("R")


class Answering(Routed, Protocol):
    """What answering needs of a learner."""

    @property
    def method(self) -> Method: ...
    @property
    def state(self) -> State: ...
    @property
    def decoding(self) -> Decoding: ...
    @property
    def lengths(self) -> Lengths: ...
    @property
    def router(self) -> LearnerRouter | None: ...
    @property
    def writes_labels(self) -> bool: ...


def answers_to(learner: Answering, tasks: Sequence[Task]) -> list[list[str]]:
    """Answers to the test rows of each task, in row order, while the learner serves.

    Args:
        learner: Who answers.
        tasks: With targets.

    Raises:
        DataError: If a task is unlabeled text, or if labels are to be chosen and it has none.
    """
    for task in tasks:
        if task.kind == "text":
            raise DataError(f"Task '{task.name}' is unlabeled text, which has no answers; measure_text() scores it.")
    readout = learner.method.readout
    if readout is None or not any(task.labels for task in tasks):
        return _by_host(learner, tasks)
    by_host = iter(_by_host(learner, [task for task in tasks if not task.labels]))
    return [_by_readout(learner, readout, task) if task.labels else next(by_host) for task in tasks]


def open_labels(learner: Answering, task: Task) -> Sequence[str] | None:
    """What a readout chooses from for a task's rows; None: all labels learned so far."""
    own_task = learner.decoding.decode == "labels" and learner.decoding.candidates == "true_task"
    return task.labels if own_task else None


def in_row_order(
    learner: Answering, rows: Sequence[Encoded], reader: Callable[[Sequence[Encoded]], Sequence[R] | None]
) -> list[R] | None:
    """What is read of rows, in their order, in batches of rows that are about as long.

    Args:
        learner: Whose decoding says how many rows make a batch.
        rows: The rows.
        reader: Reads a batch; None: it has nothing to say.

    Returns:
        None if the reader says nothing of the first batch.
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].source))
    found: list[R] = []
    by_length = [rows[number] for number in order]
    for own in in_batches(reader, by_length, learner.decoding, in_step=learner.host.is_sharded):
        if own is None:
            return None
        found += own
        learner.on_event(RowsAnswered(done=len(found), rows=len(rows)))
    by_row = dict(zip(order, found, strict=True))
    return [by_row[number] for number in range(len(rows))]


def _by_readout(learner: Answering, readout: Readout, task: Task) -> list[str]:
    rows, labels = learner.encode(task.examples("test")), open_labels(learner, task)
    best = in_row_order(learner, rows, lambda batch: readout.classify(learner, batch, labels))
    assert best is not None
    return best


def _by_host(learner: Answering, tasks: Sequence[Task]) -> list[list[str]]:
    if not tasks:
        return []
    for task in tasks:
        if learner.method.chooses_labels:
            raise DataError(
                f"Task '{task.name}' has no labels, and {learner.method.display_name} chooses among labels."
            )
    learner.decoding.check(tasks)
    answers = answer(
        learner.host,
        [task.examples("test") for task in tasks],
        learner.lengths,
        learner.decoding,
        token_budget(learner.host, tasks, learner.lengths, learner.decoding),
        _candidates(learner, tasks),
        learner.on_event,
        _routed_labels(learner),
    )
    if not learner.writes_labels:
        return answers
    return [as_labels(learner.host.family, task, own) for task, own in zip(tasks, answers, strict=True)]


def _candidates(learner: Answering, tasks: Sequence[Task]) -> list[Candidates] | None:
    """What the rows of each task are answered with; None for free answers."""
    if learner.decoding.decode == "free":
        return None
    if learner.decoding.candidates == "union":
        return [_labels_of(learner, learner.state.tasks)] * len(tasks)
    return [Candidates.of_task(task.labels or (), _calibration(learner, task.name)) for task in tasks]


def _routed_labels(learner: Answering) -> RoutedLabels | None:
    """What answers in place of the host where labels depend on each row's route."""
    if learner.decoding.candidates != "routed_task":
        return None
    assert learner.router is not None
    of_slots = [_labels_of(learner, names) for names in tasks_of_slots(learner)]
    return RoutedLabels(learner.router, learner.lengths, learner.decoding.label_scores, of_slots)


def _labels_of(learner: Answering, names: Sequence[str]) -> Candidates:
    """The labels of tasks that have been learned."""
    forms = learner.state.forms
    for name in names:
        if name not in forms:
            raise DataError(
                f"An older version saved this learner, without the labels of '{name}': candidates=true_task needs none "
                "that are kept."
            )
    labels = [(forms[name].labels, name) for name in dict.fromkeys(names)]
    return Candidates.of_tasks((own, _calibration(learner, name)) for own, name in labels if own)


def _calibration(learner: Answering, name: str) -> Calibration | None:
    """Of a task's labels; None where nothing is calibrated, or the task has not been learned."""
    if not learner.decoding.calibrates or name not in learner.state.tasks:
        return None
    if name not in learner.state.calibrations:
        raise DataError(
            f"The labels of task '{name}' were not calibrated when it was learned, and are not later: answer with "
            "label_scores=sum or token_mean."
        )
    calibration = learner.state.calibrations[name]
    calibration.check(learner.decoding, name)
    return calibration
