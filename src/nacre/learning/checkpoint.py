"""A snapshot on disk: tensors as safetensors, plain values as JSON, a manifest with the hash of every file.

OWNER.safetensors     what an owner has learned, by public name: adapter; of encoder-only hosts head; routing; memory
state.safetensors     the parts' tensors
state.json            everything else: seed, tasks, what parts remember, method, settings, the model's name and hash
manifest.json         sha256 of every file of the folder (`nacre.manifest`)

No learner and no model is needed to read or write one.

A saved learner lies in one folder. A run's stage may hold only what is new since the stage before it, whose folder lies
beside its own and is named in ``state.json``; its manifest has the hash of that one's. `read` follows the stages back,
each of which it verifies and opens once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nacre.adapters.slots_on_disk import SlotPiece, SlotsOnDisk, is_stack
from nacre.errors import CheckpointError
from nacre.files import build_folder, full_path, put_back, to_json
from nacre.learning import contents
from nacre.learning.contents import GROWING, Contents, put_in, taken_out
from nacre.learning.continued import joined, with_items
from nacre.learning.snapshot import OwnerState, Snapshot
from nacre.manifest import MANIFEST, Manifest, hash_of_manifest, read_manifest, write_manifest
from nacre.migrations import upgraded_learner
from nacre.settings import complaint

ADAPTER = "adapter"
STATE = f"{contents.STATE}.json"
TENSORS = ".safetensors"

T = TypeVar("T")


def save(snapshot: Snapshot, folder: Path) -> None:
    """Write the snapshot as a folder; a learner of that name is replaced, and only once the new one is complete.

    Raises:
        CheckpointError: If something else has that name.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).exists() or not any(folder.iterdir()))):
        raise CheckpointError(f"'{folder}' is there and is not a saved learner; choose another name, or delete it.")

    def fill(place: Path) -> None:
        write_files(Contents.of(snapshot), place)
        write_manifest(place)

    build_folder(folder, fill)


def is_learners(name: str) -> bool:
    """Whether a file of a folder belongs to the learner, and not to what else a run keeps there."""
    return name == STATE or name.endswith(TENSORS)


def write_files(held: Contents, folder: Path) -> None:
    """Write everything but the manifest."""
    for name, tensors in held.files.items():
        save_tensors(tensors, folder / f"{name}{TENSORS}")
    (folder / STATE).write_text(to_json(held.document) + "\n", encoding="utf-8")


def read(folder: Path, on_disk: SlotsOnDisk | None = None) -> Snapshot:
    """Open what `save` or a run wrote, in today's format or an earlier one, after verifying it.

    Args:
        folder: What was written.
        on_disk: Receives the adapter's stacks of earlier slots, which stay in their files then; None: all is read.

    Raises:
        CheckpointError: If a file is missing or damaged, or was written by a newer version; if a stage lies without
            those that it continues.
    """
    links = [_opened(folder, newest=True)]
    while (continues := links[-1].document.continues) is not None:
        links.append(_before(links[-1], continues))
    with _reading(folder):
        plain = _plain(links)
        names = (*plain["owners"], contents.STATE)
        files = {name: _tensors(links, name, left=on_disk is not None and name == ADAPTER) for name in names}
        if on_disk is not None:
            for key, pieces in _stacks(links).items():
                on_disk.add(key, pieces)
        saved = links[0].document.model_copy(update=plain)
        owners = {name: OwnerState(files[name], values) for name, values in saved.owners.items()}
        parts = {key: put_in(tree, files[contents.STATE]) for key, tree in saved.parts.items()}
    return Snapshot(
        seed=saved.seed,
        tasks=tuple(saved.tasks),
        owners=owners,
        parts=parts,
        head=saved.head,
        method=saved.method.model_dump(),
        optim=saved.optim,
        decoding=saved.decoding,
        host=saved.model.model_dump(),
        forms=saved.forms,
        calibrations=saved.calibrations,
    )


class _SavedMethod(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any]


class _SavedHost(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    hash: str
    loaded_as: dict[str, str] = {}


class _Continues(BaseModel):
    """How a stage continues the one before it (`Contents.since`)."""

    model_config = ConfigDict(extra="forbid")

    folder: str = Field(pattern=r"^[^/\\\\]*[^/\\\\.][^/\\\\]*$")
    after: dict[str, dict[str, int]]
    dropped: dict[str, list[str]]
    grown: dict[str, Any]


class _Document(BaseModel):
    """The content of `state.json`."""

    model_config = ConfigDict(extra="forbid")

    schema_: Literal["nacre.learner/3"] = Field(alias="schema")
    seed: int
    tasks: list[str]
    owners: dict[str, dict[str, Any]]
    head: str
    parts: dict[str, Any]
    method: _SavedMethod
    optim: dict[str, Any]
    decoding: dict[str, Any]
    model: _SavedHost
    forms: dict[str, Any]
    calibrations: dict[str, Any]
    continues: _Continues | None = None


@dataclass(frozen=True, eq=False)
class _Link:
    """A verified folder that holds a learner, or what of it is new.

    Attributes:
        folder: Where it lies.
        manifest: The folder's.
        document: The folder's, in today's format.
        state: The parts' tensors of a whole learner, by today's names.
    """

    folder: Path
    manifest: Manifest
    document: _Document
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self, name: str, known: Collection[str], *, left: bool) -> dict[str, Tensor]:
        """A file's tensors, but for those that are known, and for stacks of earlier slots where they are left there."""
        if name == contents.STATE and self.document.continues is None:
            return {key: tensor for key, tensor in self.state.items() if key not in known}
        return _load_tensors(self.folder, name, self.manifest, known, left=left)

    def stacks(self, known: Collection[str]) -> dict[str, Path]:
        """The file of each of the adapter's stacks of earlier slots that are in this folder, but for those known."""
        file = f"{ADAPTER}{TENSORS}"
        if file not in self.manifest.sha256:
            return {}
        with safe_open(self.folder / file, "pt") as opened:
            return {key: self.folder / file for key in opened.keys() if is_stack(key) and key not in known}  # noqa: SIM118


def _opened(folder: Path, *, newest: bool) -> _Link:
    put_back(folder)
    manifest = read_manifest(folder)
    manifest.check_listed(folder, STATE)
    manifest.check_listed(folder, f"{contents.STATE}{TENSORS}")
    for name in manifest.sha256:
        if newest or is_learners(name):  # of an earlier stage, what was measured does not matter here
            manifest.check_bytes(folder, name)
    file = folder / STATE
    with _reading(folder):
        state = _load_tensors(folder, contents.STATE, manifest)
        document = _Document.model_validate(upgraded_learner(json.loads(file.read_bytes()), state, file))
        if document.continues is not None:
            return _Link(folder, manifest, document)
        named: dict[str, Tensor] = {}
        parts = {key: taken_out(put_in(tree, state), key, named) for key, tree in document.parts.items()}
    return _Link(folder, manifest, document.model_copy(update={"parts": parts}), named)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Inside, whatever is wrong with a folder's tensors or document ends in one sentence."""
    file = folder / STATE
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: {error}.") from None
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {complaint(error)}.") from None
    except KeyError as error:
        raise CheckpointError(f"{file} is damaged: {error} is missing.") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{file} is damaged: it does not describe a learner.") from None


def _before(link: _Link, continues: _Continues) -> _Link:
    """The stage that this one continues."""
    folder = full_path(link.folder).parent / continues.folder
    put_back(folder)
    if not (folder / MANIFEST).exists():
        raise CheckpointError(
            f"'{link.folder}' holds only what is new since '{continues.folder}', which does not lie beside it: load it "
            "inside its run and save it elsewhere with learner.save(), or copy the run's whole folder 'tasks'."
        )
    if link.manifest.previous != hash_of_manifest(folder):
        raise CheckpointError(
            f"'{link.folder}' continues another '{continues.folder}' than the one that lies beside it: that one was "
            "made anew, changed, or is of another run."
        )
    return _opened(folder, newest=False)


def _plain(links: Sequence[_Link]) -> dict[str, Any]:
    """The document's growing values, whole.

    Args:
        links: The newest first.
    """
    found: Any = None
    for link in reversed(links):
        continues = link.document.continues
        own = {key: getattr(link.document, key) for key in GROWING}
        found = with_items(own, continues.grown if continues else None, found)
    plain: dict[str, Any] = found
    return plain


def _tensors(links: Sequence[_Link], name: str, *, left: bool) -> dict[str, Tensor]:
    """A file's tensors, whole: each of their rows is read once.

    Args:
        links: The newest first.
        name: Of the file.
        left: Whether stacks of earlier slots are left there.
    """
    found = _pieces(links, name, lambda link, known: link.tensors(name, known, left=left))
    return {key: joined(*zip(*pieces, strict=True)) for key, pieces in found.items()}


def _stacks(links: Sequence[_Link]) -> dict[str, list[SlotPiece]]:
    """Where the rows of the adapter's stacks of earlier slots lie.

    Args:
        links: The newest first.
    """
    found = _pieces(links, ADAPTER, lambda link, known: link.stacks(known))
    return {key: [SlotPiece(file, key, after) for file, after in pieces] for key, pieces in found.items()}


def _pieces(
    links: Sequence[_Link], name: str, read: Callable[[_Link, Collection[str]], Mapping[str, T]]
) -> dict[str, list[tuple[T, int]]]:
    """What the stages hold of each tensor of a file, the earliest first, with how many rows come before.

    Args:
        links: The newest first.
        name: Of the file.
        read: What one stage holds of the file's tensors, but for those that are known.
    """
    found: dict[str, list[tuple[T, int]]] = {}
    known: set[str] = set()  # of which nothing more is needed
    for link in links:
        continues = link.document.continues
        after = continues.after.get(name, {}) if continues else {}
        for key, piece in read(link, known).items():
            found.setdefault(key, []).append((piece, after.get(key, 0)))
            if key not in after:
                known.add(key)
        known.update(continues.dropped.get(name, ()) if continues else ())
    return {key: pieces[::-1] for key, pieces in found.items()}


def _load_tensors(
    folder: Path, name: str, manifest: Manifest, known: Collection[str] = (), *, left: bool = False
) -> dict[str, Tensor]:
    file = f"{name}{TENSORS}"
    if file not in manifest.sha256:
        return {}  # an owner that has learned nothing has no file
    with safe_open(folder / file, "pt") as opened:
        needed = [key for key in opened.keys() if key not in known and not (left and is_stack(key))]  # noqa: SIM118
        return {key: opened.get_tensor(key) for key in needed}


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors on the CPU to a file.

    Raises:
        CheckpointError: If that is not possible, as on a full disk.
    """
    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be written: {error}.") from None
