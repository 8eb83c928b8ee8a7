"""What a store holds, for people and programs to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacre.errors import CheckpointError
from nacre.records.gate_verdict import GateVerdict
from nacre.store.store import UNFINISHED, Store
from nacre.store.version import Version


@dataclass(frozen=True)
class ListedVersion:
    """A version in a list.

    Attributes:
        name: Its name.
        version: What it says of itself; None where that cannot be read.
        current: Whether it answers.
        verdict: What the gate said of it last; None where it was not asked.
    """

    name: str
    version: Version | None
    current: bool
    verdict: GateVerdict | None

    @property
    def average(self) -> float | None:
        """The mean score over its tasks; None where it has none."""
        scores = [task.score.value for task in self.version.tasks if task.score] if self.version else []
        return sum(scores) / len(scores) if scores else None

    @property
    def said(self) -> str:
        """The gate's word."""
        return "" if self.verdict is None else "passed" if self.verdict.passed else "not passed"

    def document(self) -> dict[str, Any]:
        """Plain values."""
        version = self.version
        return {
            "version": self.name,
            "current": self.current,
            "parent": version.parent if version else None,
            "action": version.action if version else None,
            "task": version.task if version else None,
            "tasks": version.names if version else None,
            "created": version.created if version else None,
            "average": self.average,
            "passed": None if self.verdict is None else self.verdict.passed,
        }


@dataclass(frozen=True)
class Status:
    """How a store stands.

    Attributes:
        name: The current version's.
        version: What it says of itself.
        versions: How many there are.
        size: The bytes of the whole store.
        refused: The gate's last word on a version made of the current one, if it did not open.
        unfinished: Folders of tasks that were learned and not measured.
    """

    name: str
    version: Version
    versions: int
    size: int
    refused: GateVerdict | None
    unfinished: list[str]

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "current": self.name,
            "tasks": self.version.names,
            "scores": {task.name: task.score.value if task.score else None for task in self.version.tasks},
            "versions": self.versions,
            "bytes": self.size,
            "refused": None if self.refused is None else self.refused.model_dump(by_alias=True),
            "unfinished": self.unfinished,
        }


def listed(store: Store) -> list[ListedVersion]:
    """All versions, oldest first; those that cannot be read come last."""
    current = store.current_or_none()
    made = [line.get("version") for line in store.history() if line.get("event") == "version"]
    place = {name: number for number, name in enumerate(made)}  # times have seconds only
    found = [ListedVersion(name, _peek(store, name), name == current, store.verdict(name)) for name in store.names()]
    return sorted(found, key=lambda each: (each.version is None, place.get(each.name, -1), each.name))


def status_of(store: Store) -> Status:
    """How a store stands; its current version is verified."""
    name = store.current
    version = store.read(name)
    children = [each for each in listed(store) if each.version is not None and each.version.parent == name]
    refused = [each.verdict for each in children if each.verdict is not None and not each.verdict.passed]
    return Status(
        name=name,
        version=version,
        versions=len(store.names()),
        size=_size(store.path),
        refused=refused[-1] if refused else None,
        unfinished=sorted(str(folder) for folder in store.versions.glob(f"{UNFINISHED}*")),
    )


def scores_before(store: Store, version: Version) -> Mapping[str, float]:
    """The scores of the version that a version was made of, by task and benchmark; nothing where it has none."""
    parent = None if version.parent is None else _peek(store, version.parent)
    if parent is None:
        return {}
    tasks = {task.name: task.score.value for task in parent.tasks if task.score is not None}
    return tasks | {ability.task: ability.scores[ability.headline].value for ability in parent.ability}


def _peek(store: Store, name: str) -> Version | None:
    """What a version says of itself, whatever became of its other files; None where that is damaged."""
    try:
        return store.peek(name)
    except CheckpointError:
        return None


def _size(folder: Path) -> int:
    """The bytes of all files below a folder; those with several names count once."""
    stats = (file.stat() for file in folder.rglob("*") if file.is_file())
    return sum({(each.st_dev, each.st_ino): each.st_size for each in stats}.values())
