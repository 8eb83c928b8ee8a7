"""Small stores, and whether two of them hold the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.tiny import write_task
from nacre.events import ignore
from nacre.files import sha256
from nacre.learning import checkpoint
from nacre.learning.settings import Optim
from nacre.learning.snapshot import Snapshot
from nacre.store.settings import StoreSettings
from nacre.store.source import Source
from nacre.store.store import Store
from nacre.store.teaching import NewVersion, create, learn

TIMES = {"created", "train_seconds", "evaluate_seconds", "parent", "work"}
"""What a version says that a clock has part in; names follow from it."""

NAMES = ("animals", "plants", "tools")


def settings_of(model: Path, method: str = "inc_lora", **more: Any) -> StoreSettings:
    """Two steps a task."""
    fields: dict[str, Any] = {"optim": Optim(batch_size=8, learning_rate=0.03), **more}
    return StoreSettings(method=method, model=str(model), **fields).written_out()


def write_tasks(data: Path, names: Sequence[str] = NAMES) -> Path:
    """Small tasks of these names; returns their folder."""
    for name in names:
        write_task(data, name, rows=12)
    return data


def new_store(path: Path, settings: StoreSettings) -> Store:
    create(path, settings, ignore)
    return Store.open(path)


def taught(
    store: Store, data: Path, *names: str, must_keep: str | None = None, save_every: int | None = None
) -> list[NewVersion]:
    """Teach a store tasks, one after the other."""
    sources = [Source(name, str(data)) for name in names]
    return [learn(store, source, ignore, must_keep=must_keep, save_every=save_every) for source in sources]


def snapshot_of(store: Store, name: str) -> Snapshot:
    """What a version holds of a learner."""
    return checkpoint.read(store.folder(name))


def chain(store: Store, name: str | None = None) -> list[str]:
    """A version, by default the current one, and those that it was made of, the first one first."""
    found: list[str] = []
    here = name or store.current
    while here is not None:
        found.append(here)
        here = store.read(here).parent  # type: ignore[assignment]
    return found[::-1]


def holds(store: Store) -> list[dict[str, Any]]:
    """What the current version and its ancestors hold, but for what a clock has part in."""
    found = []
    for name in chain(store):
        version, folder = store.read(name), store.folder(name)
        files = {
            str(file.relative_to(folder)): sha256(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name not in ("version.json", "manifest.json", "state.json")
        }
        document = {key: value for key, value in version.model_dump().items() if key not in TIMES}
        found.append({"version": document, "files": files})
    return found
