"""A user's own stream in one YAML file:

```yaml

    name: helpdesk
    tasks:
      - name: billing
        train: billing/train.jsonl
        test: billing/test.csv
        fields: {text: question, label: desk}
        instruction: Which desk answers?
        labels: ["invoices", "refunds"]
        metric: macro_f1
      - name: replies
        ...
```

File names are relative to the YAML file; `nacre.tasks.reading.tables` lists the kinds of files. The other keys of a
task mean the same as in task.json, but here an unknown key is an error. A task with the name of a published one takes
its labels and its prompt from there if the file gives none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nacre.documents import DocumentError, shown
from nacre.errors import DataError, RecipeError, file_errors, nearest
from nacre.files import read_yaml, user_path
from nacre.tasks.making.made_task import MadeTask
from nacre.tasks.published.catalog import canonical
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.assembly import RawTask, assemble
from nacre.tasks.reading.cards import TaskCard, card_of
from nacre.tasks.reading.choices import DEFAULT, Choices
from nacre.tasks.reading.sources import check_names, find_tasks, load_tasks
from nacre.tasks.reading.tables import read_table
from nacre.tasks.task import SPLITS, Split, Task

ENDINGS = (".yaml", ".yml")
KEYS = ("name", "tasks")
TASK_KEYS = (
    "name",
    *SPLITS,
    "fields",
    "family",
    "instruction",
    "labels",
    "options",
    "answer_cue",
    "metric",
    "kind",
    "license",
)


@dataclass(frozen=True)
class OwnTask:
    """One task as the file describes it.

    Attributes:
        name: The task's name.
        where: The file and the task, for messages.
        files: The file of each split.
        card: The other keys.
    """

    name: str
    where: str
    files: Mapping[Split, Path]
    card: TaskCard


@dataclass(frozen=True)
class OwnStream:
    """The content of one stream file.

    Attributes:
        name: The stream's name.
        tasks: Its tasks, in order.
    """

    name: str
    tasks: tuple[OwnTask, ...]

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)

    def load(self, choices: Choices = DEFAULT) -> list[Task]:
        """Loads the tasks with their rows.

        Args:
            choices: What to do with bad rows and labels, and the seed for the validation rows held out of a task that
                has no file of them.

        Returns:
            The tasks, in order.

        Raises:
            DataError: A file is missing or wrong.
        """
        with file_errors():
            return [_load(task, choices) for task in self.tasks]


def load_stream(
    stream: str | Sequence[str], data: str | None, *, option: str = "data", choices: Choices = DEFAULT
) -> list[Task]:
    """Loads the tasks of a stream.

    Args:
        stream: The name of a published stream, a stream file, a task under `data`, or a list of such tasks.
        data: The data, as for `nacre.tasks.reading.sources.load_tasks`.
        option: The option that sets the data, for messages.
        choices: What to do with bad rows and labels.

    Returns:
        The tasks, in order.

    Raises:
        RecipeError: The stream needs data and has none, or has its own and is given others.
    """
    if not isinstance(stream, str):
        return load_tasks(stream, data, **asdict(choices))
    if is_stream_file(stream):
        if data is not None:
            raise RecipeError(f"Stream file '{stream}' names its own files and takes no {option}.")
        return read_stream(user_path(stream)).load(choices)
    if data is not None and stream in find_tasks(data):
        return load_tasks([stream], data, **asdict(choices))
    named = get_stream(stream)
    if data is None and stream != "demo":
        raise RecipeError(f"Stream '{stream}' needs {option}: the folder that holds its tasks.")
    if data is not None and stream == "demo":
        raise RecipeError(
            f"Stream 'demo' makes its own rows and takes no {option}; name a stream or tasks of that folder."
        )
    if named.made:
        return _made(named.made, data, choices)
    return load_tasks(named.tasks, data, **asdict(choices))


def _made(tasks: Sequence[MadeTask], data: str | None, choices: Choices) -> list[Task]:
    """Tasks made of other tasks, of which each is read once."""
    bases = list(dict.fromkeys(task.of for task in tasks))
    read = dict(zip(bases, load_tasks(bases, data, **asdict(choices)), strict=True))
    return [task.make(read[task.of]) for task in tasks]


def is_stream_file(name: str) -> bool:
    """Returns whether a stream's name is that of a file."""
    return name.endswith(ENDINGS)


@file_errors()
def read_stream(path: Path) -> OwnStream:
    """Reads a stream file, but not the rows.

    Raises:
        DataError: The file is wrong; the message names the file, the key and the value.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise DataError(f"Stream file {path} cannot be read: {error.strerror or error}.") from error
    except DocumentError as error:
        raise DataError(f"Stream file {path} {error}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list) or not content["tasks"]:
        raise DataError(f"Stream file {path}: 'tasks', a list of at least one task, is expected.")
    _check_keys(str(path), content, KEYS)
    name = content.get("name", path.stem)
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{path}, name: a string is expected, not {shown(name)}.")
    tasks = tuple(_task(path, number, entry) for number, entry in enumerate(content["tasks"], start=1))
    try:
        check_names([name])
        check_names([task.name for task in tasks])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return OwnStream(name, tasks)


def _task(path: Path, number: int, entry: Any) -> OwnTask:
    where = f"{path}, task {number}"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: keys and values such as 'name' and 'train' are expected, not {shown(entry)}.")
    _check_keys(where, entry, TASK_KEYS)
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}, name: a string is expected, not {shown(name)}.")
    where = f"{path}, task '{name}'"
    _check_labels(where, entry.get("labels"))
    if entry.get("kind", "answer") not in ("answer", "text"):
        raise DataError(f"{where}, kind: 'answer' or 'text' is expected, not {shown(entry['kind'])}.")
    card = card_of(where, entry, path.parent)
    if card.metric_note is not None:
        raise DataError(f"{where}, metric: there is no metric {shown(card.metric_note)}.")
    return OwnTask(name, where, _files(where, entry, path.parent), card)


def _check_keys(where: str, content: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            raise DataError(f"{where}: there is no key {shown(key)}. {nearest(str(key), known)}")


def _check_labels(where: str, value: Any) -> None:
    """YAML reads yes, no, on and off as truth values, which no row would carry."""
    if isinstance(value, list) and (switches := [entry for entry in value if isinstance(entry, bool)]):
        raise DataError(
            f"{where}, labels: YAML reads yes, no, on, off, true and false without quotes as truth values, here as "
            f"{switches[0]}; put such labels in quotes."
        )


def _files(where: str, entry: Mapping[str, Any], folder: Path) -> dict[Split, Path]:
    files: dict[Split, Path] = {}
    for split in SPLITS:
        name = entry.get(split)
        if name is None and split == "validation":
            continue
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}, {split}: the name of a file is expected, not {shown(name)}.")
        files[split] = folder / user_path(name)
    return files


def _load(task: OwnTask, choices: Choices) -> Task:
    for split, file in task.files.items():
        if not file.exists():
            raise DataError(f"{task.where}, {split}: the file {file} does not exist.")
    tables = {split: read_table(file, with_faults=True) for split, file in task.files.items()}
    return assemble(canonical(task.name), RawTask(task.where, "stream", tables, task.card), choices)
