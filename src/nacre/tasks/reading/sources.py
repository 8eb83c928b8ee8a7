"""From names to tasks: where the rows lie, what they hold, and what was done to them.

`load_tasks` is the one way from data to `Task`. It records its decisions (files and their hashes, rows left out, rows
held out for validation) in `Task.source`, so that two runs can be shown to use the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from nacre.documents import shown
from nacre.errors import DataError, file_errors, nearest
from nacre.files import user_path
from nacre.printable import one_line
from nacre.tasks.published.catalog import canonical, known
from nacre.tasks.published.hub_sources import HUB_SOURCES
from nacre.tasks.reading.assembly import RawTask, assemble
from nacre.tasks.reading.cards import TaskCard, label_set, read_card
from nacre.tasks.reading.choices import Choices
from nacre.tasks.reading.hub import (
    PREFIX,
    PUBLISHED,
    config_names,
    find_config,
    parse_address,
    read_dataset,
    read_published,
)
from nacre.tasks.reading.layouts import (
    TaskLocation,
    expected_test_file,
    locate,
    other_data_files,
    split_files,
    task_locations,
)
from nacre.tasks.reading.tables import read_json, read_table
from nacre.tasks.task import Split, Task

LONGEST_TASK_NAME = 200
"""Bytes, so that file systems take the name with an ending."""


@file_errors()
def load_tasks(
    names: Sequence[str],
    data: str | Path | None,
    *,
    seed: int = 0,
    skip_bad_rows: bool = False,
    fold_labels: bool = False,
) -> list[Task]:
    """Loads tasks by name.

    Only `hub:` and a task.json that names a dataset use the network.

    Args:
        names: Canonical names, aliases of published tasks, or names of folders, files or configurations.
        data: A folder in one of the layouts of `nacre.tasks.reading.layouts`, or one task's folder or training file.
            `hub:NAME[@REVISION]` stands for a Hugging Face dataset whose configurations are the tasks,
            `hub:published` for the published tasks from their original datasets, and None for the tasks that nacre
            makes itself (the stream "demo").
        seed: Seed for the validation rows held out of the training rows, if a source has none, and for the test rows of
            a source that is a single file.
        skip_bad_rows: Whether rows that cannot be read are left out; otherwise the message names them.
        fold_labels: Whether labels that differ only in case or white space are one label.

    Returns:
        The tasks, in the order of their names.

    Raises:
        DataError: Something is wrong that the owner of the data can mend; the message names the file and the line.
    """
    check_names(names)
    if data is None:
        return _demo(names)
    choices = Choices(seed, skip_bad_rows, fold_labels)
    alone = len(names) == 1
    return [
        assemble(canonical(name), find_raw_task(name, data, alone=alone, with_faults=True), choices) for name in names
    ]


@file_errors()
def find_tasks(data: str | Path | None) -> list[str]:
    """Returns the names that `load_tasks` accepts for `data`.

    They are sorted, but for the demo's, which are in its order. Published tasks go by their canonical names.
    """
    if data is None:
        return [task.name for task in _demo_tasks()]
    if data == PUBLISHED:
        return sorted(HUB_SOURCES)
    if _is_hub(data):
        return sorted({canonical(name) for name in config_names(parse_address(str(data)))})
    return sorted({canonical(location.name) for location in task_locations(user_path(data))})


def _is_hub(data: str | Path) -> bool:
    return isinstance(data, str) and data.startswith(PREFIX)


def _demo_tasks() -> list[Task]:
    # Imported here, because runs on real data never need its rows.
    from nacre.tasks.demo import demo_tasks

    return demo_tasks()


def _demo(names: Sequence[str]) -> list[Task]:
    tasks = {task.name: task for task in _demo_tasks()}
    for name in names:
        if name not in tasks:
            hint = nearest(name, tasks)
            raise DataError(f"Task '{name}' needs a data folder, but none was given. Without one: {hint}")
    return [tasks[name] for name in names]


def find_raw_task(name: str, data: str | Path, *, alone: bool, with_faults: bool = False) -> RawTask:
    """Reads all that a source holds about one task.

    Args:
        name: The task's name.
        data: As for `load_tasks`.
        alone: Whether it is the only task to load; see `nacre.tasks.reading.layouts.locate`.
        with_faults: As for `nacre.tasks.reading.tables.read_table`; with it, a source may be a single file.

    Returns:
        The raw task.

    Raises:
        DataError: There is no such task, or it has no training or test file.
    """
    if data == PUBLISHED:
        published = known(name)
        if published is None or published.name not in HUB_SOURCES:
            raise DataError(f"{PUBLISHED} has no task '{name}'. {nearest(name, HUB_SOURCES)}")
        return RawTask(f"{PUBLISHED}, {published.name}", "hub", read_published(published))
    if _is_hub(data):
        address = find_config(parse_address(str(data)), name)
        return RawTask(f"{address}, {address.config}", "hub", read_dataset(address))
    location = locate(user_path(data), name, alone=alone)
    card = TaskCard() if location.layout == "file" else read_card(location.path)
    files = split_files(location, card.files)
    if card.hub is not None and "train" not in files:
        return RawTask(str(card.hub), "hub", read_dataset(card.hub), card)
    single = with_faults and set(files) == {"train"} and not other_data_files(location, files["train"])
    _check_files(location, files, single=single)
    tables = {split: read_table(path, with_faults=with_faults) for split, path in files.items()}
    labels = _released_labels(location)
    return RawTask(str(location.path), location.layout, tables, card, labels, location.family, single)


def _check_files(location: TaskLocation, files: Mapping[Split, Path], *, single: bool) -> None:
    """Raises `DataError` without training and test files, before anything is read; a single file has both."""
    if "train" not in files:
        raise DataError(
            f"{location.path}: there is no training file; train.jsonl, .jsonl.gz, .csv, .parquet or .json is expected."
        )
    if "test" not in files and not single:
        train = files["train"]
        raise DataError(
            f"{location.path}: there is no test file; put {expected_test_file(location, train)} beside {train.name}."
        )


def _released_labels(location: TaskLocation) -> tuple[str, ...] | None:
    """The label set that CL_Benchmark ships with its splits."""
    path = location.path / "labels.json"
    return label_set(str(path), read_json(path)) if location.layout != "file" and path.exists() else None


def check_names(names: Sequence[str]) -> None:
    """Checks the names of tasks.

    Raises:
        DataError: There is no name, a name cannot be a folder's, or two names mean the same task.
    """
    if isinstance(names, str):
        raise DataError(f"A list of task names is expected, such as [{shown(names)}], not the string {shown(names)}.")
    if not names:
        raise DataError("No task is named; name at least one.")
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"A task's name is a string, not {shown(name)}.")
        if len(name.encode(errors="replace")) > LONGEST_TASK_NAME or one_line(name) != name:
            raise DataError(
                f"Task name {shown(name)} cannot be used; a name has at most {LONGEST_TASK_NAME} bytes, and no line "
                "ends or control characters."
            )
        if not name.strip() or ".." in name or set(name) & set("/\\\0"):
            raise DataError(
                f"Task name {shown(name)} cannot be used; a name must not be empty or contain '/', '\\' or '..'."
            )
    counts = Counter(canonical(name) for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"Task '{twice[0]}' is named twice; a stream holds each task once.")
