"""A store on disk: its settings, its versions, and which of them is current.

STORE/
  store.json        what the store was made with; never changes
  current           the name of the version that answers; written last, in one step
  versions/NAME/    a version, named by the hash of its content, which never changes: a learner
                    (`nacre.learning.checkpoint`), version.json, predictions/, manifest.json
  rows/             test rows that were copied, a file for each task, named by its hash
  verdicts/         what the gate said of versions: NAME.json, .md, .html
  journal.jsonl     what happened when
  .lock             held by the process that writes

Whoever reads takes no lock: the current name is read once, and what it names never changes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nacre.documents import parse_json
from nacre.errors import CheckpointError, RecipeError
from nacre.files import (
    build_new_folder,
    hash_of,
    read_text,
    sealed,
    sha256,
    to_json,
    unsealed,
    user_path,
    write_atomically,
)
from nacre.journal import Journal, held
from nacre.manifest import MANIFEST, hash_of_manifest, read_manifest
from nacre.records.gate_verdict import GateVerdict, read_verdict
from nacre.settings import complaint
from nacre.store.settings import StoreSettings
from nacre.store.version import FILE, Version, read_version

SETTINGS, CURRENT, VERSIONS, ROWS = "store.json", "current", "versions", "rows"
VERDICTS, JOURNAL = "verdicts", "journal.jsonl"
SCHEMA = "nacre.store/1"

NAME_LENGTH = 16
"""Hexadecimal digits of a version's name."""

SHORTEST = 4
"""Digits by which a person may name a version, if no other begins with them."""

UNFINISHED = "unfinished-"
"""How the folders of a task begin that was learned and not measured, or not learned to its end. They lie among the
versions."""


class Store:
    """Reads a store, and writes to it inside `locked`.

    Attributes:
        path: Its folder.
        settings: What it was made with.
        id: Their hash, to which its versions are bound.
        versions: The folder of its versions.
    """

    def __init__(self, path: Path, settings: StoreSettings, id: str) -> None:
        self.path, self.settings, self.id = path, settings, id
        self.versions = path / VERSIONS
        self._journal = Journal(path / JOURNAL)

    @classmethod
    def open(cls, place: str | Path) -> Store:
        """Open a store.

        Raises:
            RecipeError: If there is none.
            CheckpointError: If it is damaged, or if a newer version of nacre made it.
        """
        path = user_path(place)
        file = path / SETTINGS
        if not file.is_file():
            raise RecipeError(f"'{path}' is not a store: it has no {SETTINGS}; 'nacre init {path}' makes one.")
        try:
            document = unsealed(parse_json(read_text(file)))
            if document.get("schema") != SCHEMA:
                raise CheckpointError(f"{file} has schema {document.get('schema')!r}; this version reads '{SCHEMA}'.")
            return cls(path, StoreSettings.model_validate(document["settings"]), hash_of(document["settings"]))
        except (ValueError, KeyError, TypeError) as error:
            why = complaint(error) if isinstance(error, ValidationError) else str(error)
            raise CheckpointError(f"{file} is damaged: {why}.") from None

    @classmethod
    def make(cls, place: str | Path, settings: StoreSettings, begin: Callable[[Store], str]) -> Store:
        """Make a store. It appears whole, with its first version, or not at all.

        Args:
            place: Where.
            settings: Its settings.
            begin: Writes the first version and returns its name.

        Raises:
            RecipeError: If something else is there.
        """
        path = user_path(place)
        cls.check_place(path)
        document, made = settings.document(), hash_of(settings.document())

        def fill(folder: Path) -> None:
            store = cls(folder, settings, made)
            name = begin(store)
            store.promote(name, store.read(name).action)
            write_atomically(folder / SETTINGS, to_json(sealed({"schema": SCHEMA, "settings": document})) + "\n")

        build_new_folder(path, fill)
        return cls(path, settings, made)

    @staticmethod
    def check_place(path: Path) -> None:
        """Refuse a place where something is.

        Raises:
            RecipeError: Unless nothing or an empty folder is there.
        """
        if (path / SETTINGS).exists():
            raise RecipeError(f"'{path}' is a store already; 'nacre status {path}' says what it has learned.")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RecipeError(f"'{path}' holds other things; choose a new or empty folder for a store.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against a second process that writes.

        Raises:
            RecipeError: If another process holds it.
        """
        with held(self.path, f"Another process is writing to the store '{self.path}'; wait until it is done."):
            self._journal.mend()
            self._sweep()
            yield

    @property
    def current(self) -> str:
        """The name of the version that answers.

        Raises:
            CheckpointError: If nobody can say.
        """
        file = self.path / CURRENT
        advice = f"'nacre rollback {self.path} VERSION' writes it anew; 'nacre versions {self.path}' lists them"
        try:
            name = read_text(file).strip()
        except FileNotFoundError:
            raise CheckpointError(f"{file} is missing: {advice}.") from None
        except UnicodeDecodeError:
            name = ""
        if not _is_name(name):
            raise CheckpointError(f"{file} is damaged: it does not name a version; {advice}.")
        if not (self.versions / name).is_dir():
            raise CheckpointError(f"{file} names version {name}, which is not there; {advice}.")
        return name

    def current_or_none(self) -> str | None:
        """The same; None where nobody can say."""
        try:
            return self.current
        except CheckpointError:
            return None

    def names(self) -> list[str]:
        """The names of all versions that are there, sorted."""
        if not self.versions.is_dir():
            return []
        return sorted(each.name for each in self.versions.iterdir() if _is_name(each.name))

    def folder(self, name: str) -> Path:
        """Where a version lies."""
        return self.versions / name

    def resolve(self, written: str) -> str:
        """The version that a person means.

        Args:
            written: `current`, or the first digits of a name.

        Raises:
            RecipeError: If there is none, or more than one.
        """
        if written == "current":
            return self.current
        found = [name for name in self.names() if name.startswith(written)]
        if len(written) < SHORTEST or len(found) != 1:
            why = "no version begins so" if not found else f"{len(found)} versions begin so"
            if found and len(written) < SHORTEST:
                why = f"a version is named by {SHORTEST} digits or more"
            raise RecipeError(
                f"Version '{written}': {why}; 'nacre versions {self.path}' lists them, and 'current' is one."
            )
        return found[0]

    def read(self, name: str) -> Version:
        """What a version says of itself, after all of its files and its tasks' copied rows were verified.

        Args:
            name: Its full name.

        Raises:
            CheckpointError: If one of its files is missing or damaged, or if it is of another store.
        """
        version = self.peek(name)
        read_manifest(self.folder(name)).check(self.folder(name))
        for task in version.tasks:
            if task.file is not None:
                self.check_rows(task.file)
        return version

    def peek(self, name: str) -> Version:
        """The same, after that alone was verified: its own files may be damaged.

        Args:
            name: Its full name.

        Raises:
            CheckpointError: If that is missing or damaged, or if the version is of another store.
        """
        folder = self.folder(name)
        if not folder.is_dir():
            raise CheckpointError(f"'{folder}' is not there, and no other folder holds version {name}.")
        if name_of(folder) != name:
            raise CheckpointError(f"{folder / MANIFEST} is damaged: version {name} had another one.")
        manifest = read_manifest(folder)
        manifest.check_bytes(folder, FILE)
        if manifest.run != self.id:
            raise CheckpointError(f"'{folder}' is a version of another store.")
        version = read_version(folder)
        if version.parent != (manifest.previous and manifest.previous[:NAME_LENGTH]):
            raise CheckpointError(f"{folder / MANIFEST} is damaged: it follows another version than {FILE} says.")
        return version

    def keep_rows(self, content: bytes) -> str:
        """Keep the test rows of a task. The same rows are kept once.

        Returns:
            The file's name.
        """
        name = hashlib.sha256(content).hexdigest()
        folder = self.path / ROWS
        folder.mkdir(exist_ok=True)
        if not (folder / name).exists():
            write_atomically(folder / name, content)
        return name

    def check_rows(self, name: str) -> Path:
        """The file of a task's test rows, after it was verified.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        file = self.path / ROWS / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: it holds the test rows of a task.")
        if sha256(file) != name:
            raise CheckpointError(f"{file} is damaged: it holds other test rows than it did.")
        return file

    def made_before(self, parent: str, work: str) -> str | None:
        """The version that was made of another one by the same work, verified; None if there is none.

        Args:
            parent: The name of the version that it would be made of.
            work: See `Version.work`.
        """
        for name in self.names():
            try:
                version = self.peek(name)
                if (version.parent, version.work) == (parent, work):
                    self.read(name)
                    return name
            except CheckpointError:  # a damaged version is nobody's, and is named where somebody asks for it
                continue
        return None

    def promote(self, name: str, by: str) -> None:
        """Let a version answer from now on.

        Args:
            name: The version's.
            by: The command that does so, for the journal.
        """
        write_atomically(self.path / CURRENT, name + "\n")
        self.note("current", version=name, by=by)

    def note(self, event: str, **values: Any) -> None:
        """Write down what happened.

        Args:
            event: Its name.
            values: What is to be known of it, as plain values.
        """
        self._journal.append({"event": event, **values})

    def history(self) -> list[dict[str, Any]]:
        """The lines of the journal, oldest first. Lines that cannot be read are left out: it is a record for people."""
        return self._journal.lines()

    def write_verdict(self, verdict: GateVerdict, markdown: str, page: str) -> Path:
        """Store what the gate said of a version; what it said earlier of the same one is replaced.

        Args:
            verdict: What it said.
            markdown: The same to read, as Markdown.
            page: The same as HTML.

        Returns:
            The Markdown file.
        """
        folder = self.path / VERDICTS
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{verdict.version}.html", page)
        write_atomically(folder / f"{verdict.version}.json", verdict.as_json() + "\n")
        write_atomically(folder / f"{verdict.version}.md", markdown)
        self.note("verdict", version=verdict.version, passed=verdict.passed, must_keep=verdict.must_keep)
        return folder / f"{verdict.version}.md"

    def verdict(self, name: str) -> GateVerdict | None:
        """What the gate said last of a version; None where it was not asked.

        Raises:
            CheckpointError: If the file is damaged.
        """
        file = self.path / VERDICTS / f"{name}.json"
        try:
            return read_verdict(read_text(file))
        except FileNotFoundError:
            return None
        except ValueError as error:
            why = complaint(error) if isinstance(error, ValidationError) else str(error)
            raise CheckpointError(f"{file} is damaged: {why}; delete it, and go on.") from None

    def unfinished(self, work: str) -> Path:
        """Where a learner lies that was taught and not measured yet.

        Args:
            work: See `Version.work`.
        """
        return self.versions / f"{UNFINISHED}{work[:NAME_LENGTH]}"

    def training(self, work: str) -> Path:
        """Where the training of a task lies that goes on, or was stopped.

        Args:
            work: See `Version.work`.
        """
        return self.versions / f"{UNFINISHED}{work[:NAME_LENGTH]}-training"

    def drop_unfinished(self) -> None:
        """Remove what was begun and not measured: the current version has moved on."""
        for pattern in (f"{UNFINISHED}*", f".{UNFINISHED}*.partial"):  # what made way may still lie there
            for folder in self.versions.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)

    def size(self, name: str) -> int:
        """The bytes of a version's own files."""
        return sum(file.stat().st_size for file in self.folder(name).rglob("*") if file.is_file())

    def _sweep(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in (self.path, self.versions, self.path / ROWS, self.path / VERDICTS):
            for leftover in folder.glob(".*.partial"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def name_of(folder: Path) -> str:
    """The name of a version with this content.

    Raises:
        CheckpointError: If it has no manifest.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder / MANIFEST} is missing: the version is damaged.")
    return hash_of_manifest(folder)[:NAME_LENGTH]


def _is_name(text: str) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{NAME_LENGTH}}}", text) is not None
