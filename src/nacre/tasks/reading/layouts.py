"""Where a task's files lie: which folders and files under a data folder are tasks, and which file is which split.

| path | layout |
|---|---|
| `DATA/<task>/train.jsonl` | nacre's layout, with an optional task.json |
| `DATA/<task>/train.json` | TRACE: JSON lists of prompts and answers, `eval.json` for validation |
| `DATA/<family>/<task>/train.json` | the published CL_Benchmark, O-LoRA's (JSON lists) and SAPT's (with definitions) |
| `DATA/CL_Benchmark/<family>/<task>/train.json` | the same, one folder up |
| `DATA/<task>.jsonl` | one file per split: `<task>.test.jsonl` lies beside it |
| `DATA` itself | one task's folder, or one task's training file |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nacre.documents import shown_text
from nacre.errors import DataError, nearest
from nacre.files import full_path
from nacre.tasks.published.catalog import canonical, known
from nacre.tasks.reading.cards import read_card
from nacre.tasks.reading.tables import ENDINGS, SPLIT_NAMES
from nacre.tasks.task import Split

_SPLITS = tuple(name for names in SPLIT_NAMES.values() for name in names)
_SPLIT_FILES = {name + ending for name in _SPLITS for ending in ENDINGS}
_TRAIN_FILES = {"train" + ending for ending in ENDINGS}
_FILE_ENDINGS = tuple(ending for ending in ENDINGS if ending != ".json")  # a .json beside tasks may be anything


@dataclass(frozen=True)
class TaskLocation:
    """Where a task lies.

    Attributes:
        name: The task's name.
        path: Its folder, or its training file.
        layout: How its files are laid out.
        family: The name of the folder above, in CL_Benchmark.
    """

    name: str
    path: Path
    layout: Literal["folder", "cl_benchmark", "file"]
    family: str = ""


def task_locations(data: Path) -> list[TaskLocation]:
    """Finds every task under a data path.

    A folder that holds training rows or a task.json is one task, whatever else it holds.

    Returns:
        The tasks, sorted by name.

    Raises:
        DataError: The path does not exist, or is not a training file.
    """
    if not data.exists():
        raise DataError(f"The data folder {data} does not exist.")
    if data.is_file():
        if _stem(data) is None and data.name not in _TRAIN_FILES:
            raise DataError(f"{data} is not a training file; files that end in {', '.join(_FILE_ENDINGS)} are.")
        return [TaskLocation(_stem(data) or data.name, data, "file")]
    if not data.is_dir():
        raise DataError(f"{data} is neither a folder nor a file.")
    if "task.json" in _file_names(data) or _file_names(data) & _TRAIN_FILES:
        return [TaskLocation(read_card(data).name or full_path(data).name, data, "folder")]
    locations = []
    for path in _entries(data):
        if path.is_dir():
            if _is_task(path):
                locations.append(TaskLocation(path.name, path, "folder"))
        elif (stem := _stem(path)) is not None:
            locations.append(TaskLocation(stem, path, "file"))
    for root in (data, data / "CL_Benchmark"):
        locations += [location for location in _second_level(root) if "train.json" in _file_names(location.path)]
    return sorted(locations, key=lambda location: (location.name, str(location.path)))


def locate(data: Path, name: str, *, alone: bool) -> TaskLocation:
    """Finds one task by its name or, for a published task, any of its names.

    Args:
        data: The data path.
        name: The task's name.
        alone: Whether it is the only task to load. Then a path that is itself a task may have any name, unless its
            task.json has another one or it is named after another published task.

    Returns:
        The task's location.

    Raises:
        DataError: There is no such task, or more than one. The message names the nearest names, the subfolder to pass
            if `data` is one level too high, or both locations.
    """
    locations = task_locations(data)
    matches = [location for location in locations if location.name == name]
    matches = matches or [location for location in locations if canonical(location.name) == canonical(name)]
    if len(matches) > 1:
        listed = " and ".join(str(location.path) for location in matches)
        raise DataError(f"Task '{name}' exists more than once: {listed}; pass the folder that holds the right one.")
    if matches:
        return matches[0]
    if alone and len(locations) == 1 and _takes_any_name(data, locations[0]):
        return replace(locations[0], name=name)
    raise DataError(f"Task '{name}' is not in {data}. {_advice(data, name, locations)}")


def split_files(location: TaskLocation, named: Mapping[Split, str]) -> dict[Split, Path]:
    """Finds the file of each split.

    Args:
        location: The task's location.
        named: File names given in task.json, which come first.

    Returns:
        The files, for the splits that have one.

    Raises:
        DataError: Two files could be the same split.
    """
    lone = location.layout == "file"
    folder = location.path.parent if lone else location.path
    stem = _stem(location.path) if lone else None
    prefix = f"{stem}." if stem else ""
    files: dict[Split, Path] = {split: folder / name for split, name in named.items()}
    if lone:
        files["train"] = location.path
    for split, names in SPLIT_NAMES.items():
        candidates = [folder / f"{prefix}{name}{ending}" for name in names for ending in ENDINGS]
        present = [path for path in candidates if path.exists()]
        if split in files or not present:
            continue
        if len(present) > 1:
            listed = " and ".join(path.name for path in present)
            raise DataError(f"{folder}: {listed} could both be the {split} split of a task; keep one of them.")
        files[split] = present[0]
    return files


def other_data_files(location: TaskLocation, train: Path) -> list[str]:
    """Returns the names of other files beside the training file that might be its test rows.

    In a task's folder any file that could hold rows may be. Beside a lone file lie other tasks' files: there its name
    must have the training file's as its first word (`tickets-2.csv`), or say that it is a split (`test.jsonl`).
    """
    folder = location.path.parent if location.layout == "file" else location.path
    kinds = (*ENDINGS, ".tsv", ".txt", ".gz", ".zst", ".xlsx", ".arrow")
    files = [path for path in _entries(folder) if path.name.lower().endswith(kinds) and path.name != train.name]
    names = [path.name for path in files if path.name not in ("task.json", "labels.json")]
    stem = _stem(train) if location.layout == "file" else None
    if stem is None:
        return names
    named_alike = re.compile(re.escape(stem) + "(?![a-zA-Z0-9])")
    return [name for name in names if named_alike.match(name) or _is_of_a_split(name)]


def expected_test_file(location: TaskLocation, train: Path) -> str:
    """Returns the name that a test file would have beside the training file."""
    ending = next((ending for ending in ENDINGS if train.name.endswith(ending)), ".jsonl")
    stem = _stem(train) if location.layout == "file" else None
    return f"{stem}.test{ending}" if stem else f"test{ending}"


def _takes_any_name(data: Path, location: TaskLocation) -> bool:
    if location.path != data or known(location.name):
        return False
    return location.layout == "file" or read_card(data).name is None


def _advice(data: Path, name: str, locations: Sequence[TaskLocation]) -> str:
    if len(locations) == 1 and locations[0].path == data:
        return f"It is the task '{locations[0].name}' itself; to load others, pass the folder that holds them."
    deeper = [location for location in _second_level(data) if canonical(location.name) == canonical(name)]
    if deeper:
        folders = " or ".join(str(location.path.parent) for location in deeper)
        return f"It is one level deeper: pass {folders}."
    if not locations and (found := _other_files(data)):
        return (
            f"No file there has a name that a task's may have, such as train.jsonl; there are {found}. Rename them, or "
            f'name them in task.json: {{"files": {{"train": ..., "test": ...}}}}.'
        )
    return nearest(name, {canonical(location.name) for location in locations})


def _other_files(data: Path) -> str:
    """Names of files that could be data under another name or of another kind."""
    folders = [data, *(path for path in _entries(data) if path.is_dir())]
    files = [path for folder in folders for path in _entries(folder) if path.is_file() and path.suffix]
    listed = ", ".join(shown_text(str(path.relative_to(data))) for path in files[:5])
    return f"{listed} and {len(files) - 5:,} more" if len(files) > 5 else listed


def _second_level(root: Path) -> list[TaskLocation]:
    """Tasks two folders down, `root/<family>/<task>`."""
    families = [path for path in _entries(root) if path.is_dir() and not _is_task(path)]
    return [
        TaskLocation(path.name, path, "cl_benchmark", family.name)
        for family in families
        for path in _entries(family)
        if path.is_dir() and _is_task(path)
    ]


def _is_task(folder: Path) -> bool:
    names = _file_names(folder)
    return "task.json" in names or bool(names & _SPLIT_FILES)


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in _entries(folder)}


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted, without hidden ones; empty if the folder does not exist or cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _is_of_a_split(name: str) -> bool:
    """Whether a file's name says that it is a split."""
    return any(word in _SPLITS for word in re.split(r"[^a-z]+", name.lower()))


def _stem(path: Path) -> str | None:
    """The task's name in the name of a training file, `invoices` in `invoices.jsonl.gz`; None for other files."""
    for ending in sorted(_FILE_ENDINGS, key=len, reverse=True):
        if path.name.endswith(ending):
            stem = path.name.removesuffix(ending)
            return None if stem.rpartition(".")[2] in _SPLITS else stem
    return None
