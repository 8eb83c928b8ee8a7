"""Where a task's files lie: which folders and files under a data folder are tasks, and which file is which split.

======================================  ======================================================================
``DATA/<task>/train.jsonl``             nacre's layout, with an optional task.json
``DATA/<task>/train.json``              TRACE: JSON lists of prompts and answers, ``eval.json`` for validation
``DATA/<family>/<task>/train.json``     the published CL_Benchmark, O-LoRA's (JSON lists) and SAPT's (with the task's
                                        definition); DATA may also be the folder that holds it
``DATA/<task>.jsonl``                   one file per split: ``<task>.test.jsonl`` beside it
``DATA`` itself                         one task's folder, or one task's training file
======================================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nacre.errors import DataError, nearest
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
    """A task that was found. path: its folder, or its training file. family: the folder above, in CL_Benchmark."""

    name: str
    path: Path
    layout: Literal["folder", "cl_benchmark", "file"]
    family: str = ""


def task_locations(data: Path) -> list[TaskLocation]:
    """Every task under a data path, sorted by name; ``DataError`` when there is no such path.

    A folder that holds training rows or a task.json is one task, whatever else lies in it.
    """
    if not data.exists():
        raise DataError(f"The data folder {data} does not exist.")
    if data.is_file():
        if _stem(data) is None and data.name not in _TRAIN_FILES:
            raise DataError(f"{data} is not a training file; files that end in {', '.join(_FILE_ENDINGS)} are.")
        return [TaskLocation(_stem(data) or data.name, data, "file")]
    if "task.json" in _file_names(data) or _file_names(data) & _TRAIN_FILES:
        return [TaskLocation(read_card(data).name or data.resolve().name, data, "folder")]
    found = []
    for path in _entries(data):
        if path.is_dir():
            if _is_task(path):
                found.append(TaskLocation(path.name, path, "folder"))
        elif (stem := _stem(path)) is not None:
            found.append(TaskLocation(stem, path, "file"))
    for root in (data, data / "CL_Benchmark"):
        found += [location for location in _second_level(root) if "train.json" in _file_names(location.path)]
    return sorted(found, key=lambda location: (location.name, str(location.path)))


def locate(data: Path, name: str, *, alone: bool) -> TaskLocation:
    """The place of one task, by its name or, for a published task, any of its names.

    alone: whether it is the only task asked for. Then a path that is itself a task may be given any name, unless it
    says otherwise: its task.json has another name, or it is called after another published task.
    ``DataError`` names what was found instead, the subfolder to pass when ``data`` is one level too high, or both
    places when there are two.
    """
    found = task_locations(data)
    matches = [location for location in found if location.name == name]
    matches = matches or [location for location in found if canonical(location.name) == canonical(name)]
    if len(matches) > 1:
        listed = " and ".join(str(location.path) for location in matches)
        raise DataError(f"Task '{name}' is there more than once: {listed}; pass the folder that holds the one meant.")
    if matches:
        return matches[0]
    if alone and len(found) == 1 and _takes_any_name(data, found[0]):
        return replace(found[0], name=name)
    raise DataError(f"Task '{name}' is not in {data}. {_advice(data, name, found)}")


def split_files(location: TaskLocation, named: Mapping[Split, str]) -> dict[Split, Path]:
    """The file of each split that has one. named: file names given in task.json, which come first."""
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


def expected_test_file(location: TaskLocation, train: Path) -> str:
    """The name a test file would have beside the training file."""
    ending = next((ending for ending in ENDINGS if train.name.endswith(ending)), ".jsonl")
    stem = _stem(train) if location.layout == "file" else None
    return f"{stem}.test{ending}" if stem else f"test{ending}"


def _takes_any_name(data: Path, location: TaskLocation) -> bool:
    if location.path != data or known(location.name):
        return False
    return location.layout == "file" or read_card(data).name is None


def _advice(data: Path, name: str, found: Sequence[TaskLocation]) -> str:
    if len(found) == 1 and found[0].path == data:
        return f"It is the task '{found[0].name}' itself; to load others, pass the folder that holds them."
    deeper = [location for location in _second_level(data) if canonical(location.name) == canonical(name)]
    if deeper:
        folders = " or ".join(str(location.path.parent) for location in deeper)
        return f"It is one level deeper: pass {folders}."
    return nearest(name, {canonical(location.name) for location in found})


def _second_level(root: Path) -> list[TaskLocation]:
    """Tasks two folders down, ``root/<family>/<task>``."""
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
    """What a folder holds, sorted, hidden names left out; nothing for a folder that is not there or not readable."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _stem(path: Path) -> str | None:
    """The task's name in the name of a training file, ``invoices`` in ``invoices.jsonl.gz``; None for other files."""
    for ending in sorted(_FILE_ENDINGS, key=len, reverse=True):
        if path.name.endswith(ending):
            stem = path.name.removesuffix(ending)
            return None if stem.rpartition(".")[2] in _SPLITS else stem
    return None
