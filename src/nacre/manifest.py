"""Manifests: which files a folder consists of, with their hashes, and in a run which stage it follows.

`manifest.json` is written last: its presence means that the folder is complete. A run's stage says in it to which run
it belongs and, by the hash of that stage's manifest, which stage it follows. So a stage of another run, or one whose
predecessor was made anew, is recognized.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nacre.errors import CheckpointError
from nacre.files import read_bytes, sha256, to_json
from nacre.migrations import LEARNER_SCHEMA, LEARNER_SCHEMAS
from nacre.settings import complaint

MANIFEST = "manifest.json"

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Binding:
    """Where a stage belongs.

    Attributes:
        run: Hash of what makes the run what it is.
        previous: Hash of the manifest of the stage before; None for a run's first stage.
    """

    run: str
    previous: str | None


class Manifest(BaseModel):
    """The content of `manifest.json`.

    Attributes:
        schema_: The format of the learner in the folder.
        sha256: The hash of every file by its name, relative to the folder.
        run: See `Binding`; None where the folder is of no run, or older than bindings are.
        previous: See `Binding`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: str = Field(alias="schema")
    sha256: dict[str, Hash] = Field(min_length=1)
    run: Hash | None = None
    previous: Hash | None = None

    @property
    def binding(self) -> Binding | None:
        """Where the stage belongs, if the manifest says so."""
        return None if self.run is None else Binding(self.run, self.previous)

    def check(self, folder: Path, *required: str) -> None:
        """Compare every listed file with what it was when it was written.

        Args:
            folder: Of the manifest.
            required: Files that must be listed.

        Raises:
            CheckpointError: Naming the file that is missing, not listed, or has other bytes.
        """
        for name in required:
            self.check_listed(folder, name)
        for name in self.sha256:
            self.check_bytes(folder, name)

    def check_listed(self, folder: Path, name: str) -> None:
        """Refuse a folder whose manifest does not know a file, or that has lost it.

        Raises:
            CheckpointError: Naming the manifest or the file.
        """
        if name not in self.sha256:
            raise CheckpointError(f"{folder / MANIFEST} is damaged: it does not list {name}.")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing, although {MANIFEST} lists it.")

    def check_bytes(self, folder: Path, name: str) -> None:
        """Compare one listed file with what it was when it was written.

        Raises:
            CheckpointError: If it has other bytes.
        """
        self.check_listed(folder, name)
        if sha256(folder / name) != self.sha256[name]:
            raise CheckpointError(f"{folder / name} is damaged: its sha256 differs from the one in {MANIFEST}.")


def write_manifest(folder: Path, binding: Binding | None = None) -> None:
    """List every file of the folder with its hash. Written last.

    Args:
        folder: What is complete but for its manifest.
        binding: Where a run's stage belongs.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / MANIFEST]
    hashes = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    bound = {key: value for key, value in (asdict(binding) if binding else {}).items() if value is not None}
    document = {"schema": LEARNER_SCHEMA, "sha256": hashes, **bound}
    (folder / MANIFEST).write_text(to_json(document) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. The files that it lists are not looked at.

    Raises:
        CheckpointError: If there is none, if it is damaged, or if a newer version wrote it.
    """
    file = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(read_bytes(file))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}: it is not a saved learner, or an incomplete one.") from None
    except IsADirectoryError:
        raise CheckpointError(f"{file} is damaged: it is a folder.") from None
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {complaint(error)}.") from None
    if manifest.schema_ not in LEARNER_SCHEMAS:
        raise CheckpointError(
            f"{file} has schema '{manifest.schema_}'; this version reads {', '.join(LEARNER_SCHEMAS)}."
        )
    if outside := [name for name in manifest.sha256 if not _is_inside(name)]:
        raise CheckpointError(f"{file} is damaged: '{outside[0]}' lies outside of the folder.")
    return manifest


def hash_of_manifest(folder: Path) -> str:
    """What a stage that follows this one is bound to."""
    return sha256(folder / MANIFEST)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
