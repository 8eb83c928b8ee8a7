"""Where the rows of a store's tasks are, how they are read, and what a version says of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from nacre.errors import DataError
from nacre.evaluation.scoring import check_metric, normalized_labels
from nacre.files import to_json
from nacre.store.settings import TestRows
from nacre.store.version import LearnedTask
from nacre.tasks.content import task_content
from nacre.tasks.reading.choices import DEFAULT, Choices
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Task
from nacre.tasks.template import Identity


@dataclass(frozen=True)
class Source:
    """Where a task's rows are, and which of them are taken.

    Attributes:
        name: The task's.
        data: Its file or folder, or one that holds it; None for the demo's tasks.
        choices: What to do with bad rows and labels.
        limit_train: Rows to train on, at most.
        limit_test: Rows to test on, at most.
    """

    name: str
    data: str | None
    choices: Choices = DEFAULT
    limit_train: int | None = None
    limit_test: int | None = None

    def read(self, identity: Identity) -> Task:
        """The task.

        Args:
            identity: Prompt lines that tell the model its task.

        Raises:
            DataError: If a row, label, split or metric is not what a task needs.
        """
        task = load_tasks([self.name], self.data, **asdict(self.choices))[0]
        normalized_labels(task)
        check_metric(task)
        return task.with_identity(identity).limited(self.limit_train, self.limit_test).check()

    def entry(self, task: Task, kept: TestRows) -> LearnedTask:
        """What a version says of the task, but for its score and where its rows are copied.

        Args:
            task: With all its rows.
            kept: What is kept of its test rows.
        """
        return LearnedTask(
            name=task.name,
            content=json.loads(to_json(task_content(task))),
            source=json.loads(to_json(dict(task.source))),
            test_rows=kept,
            data=self.data if kept == "reference" else None,
            choices={**asdict(self.choices), "limit_train": self.limit_train, "limit_test": self.limit_test},
        )


def read_again(entry: LearnedTask, data: str | None, identity: Identity) -> Task:
    """A learned task, read as it was read when it was learned.

    Args:
        entry: What a version says of it.
        data: Where its rows are now.
        identity: The store's.

    Raises:
        DataError: If it cannot be read, or if its test rows are not those that it had.
    """
    choices = dict(entry.choices)
    limits = {key: choices.pop(key, None) for key in ("limit_train", "limit_test")}
    task = Source(entry.name, data, Choices(**choices), **limits).read(identity)
    _check_same_rows(entry, task)
    return task


def _check_same_rows(entry: LearnedTask, task: Task) -> None:
    """Refuse rows that are not those that the task was measured on when it was learned, or that are asked otherwise."""
    there = json.loads(to_json(task_content(task)))
    for content in (there, known := dict(entry.content)):
        content["hash"], content["rows"] = content["hash"]["test"], content["rows"]["test"]
    if there != known:
        key = next(key for key in {**known, **there} if known.get(key) != there.get(key))
        what = {"hash": "test rows", "rows": "number of test rows"}.get(key, key)
        raise DataError(
            f"Task '{entry.name}' has another {what} than when it was learned, so that scores could not be compared: "
            "give it the rows that it had."
        )
