"""A snapshot on disk: tensors as safetensors, plain values as JSON, a manifest with the hash of every file.

OWNER.safetensors     what an owner has learned, by public name: adapter; of encoder-only hosts head; routing
state.safetensors     the parts' tensors
state.json            everything else: seed, tasks, what parts remember, method, settings, the model's name and hash
manifest.json         sha256 of every file of the folder (`nacre.manifest`)

No learner and no model is needed to read or write one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nacre.errors import CheckpointError
from nacre.files import build_folder, put_back, to_json
from nacre.learning.snapshot import OwnerState, Snapshot, Tree
from nacre.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from nacre.migrations import LEARNER_SCHEMA, upgraded_learner
from nacre.settings import complaint

STATE = "state.json"
TENSOR = "$tensor"
"""In ``state.json``, ``{"$tensor": NAME}`` stands for a tensor of ``state.safetensors``."""


def save(snapshot: Snapshot, folder: Path) -> None:
    """Write the snapshot as a folder; a learner of that name is replaced, and only once the new one is complete.

    Raises:
        CheckpointError: If something else has that name.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).exists() or not any(folder.iterdir()))):
        raise CheckpointError(f"'{folder}' is there and is not a saved learner; choose another name, or delete it.")

    def fill(place: Path) -> None:
        write_files(snapshot, place)
        write_manifest(place)

    build_folder(folder, fill)


def is_learners(name: str) -> bool:
    """Whether a file of a folder belongs to the learner, and not to what else a run keeps there."""
    return name == STATE or name.endswith(".safetensors")


def write_files(snapshot: Snapshot, folder: Path) -> None:
    """Write everything but the manifest."""
    for name, owner in snapshot.owners.items():
        if owner.tensors or name == "adapter":
            _save_tensors(owner.tensors, folder / f"{name}.safetensors")
    tensors: dict[str, Tensor] = {}
    parts = {key: _taken_out(tree, key, tensors) for key, tree in snapshot.parts.items()}
    _save_tensors(tensors, folder / "state.safetensors")
    document = {
        "schema": LEARNER_SCHEMA,
        "seed": snapshot.seed,
        "tasks": list(snapshot.tasks),
        "owners": {name: dict(owner.values) for name, owner in snapshot.owners.items()},
        "head": snapshot.head,
        "parts": parts,
        "method": dict(snapshot.method),
        "optim": dict(snapshot.optim),
        "decoding": dict(snapshot.decoding),
        "model": dict(snapshot.host),
        "forms": dict(snapshot.forms),
    }
    (folder / STATE).write_text(to_json(document) + "\n", encoding="utf-8")


def read(folder: Path) -> Snapshot:
    """Open what `save` wrote, in today's format or an earlier one, after verifying it.

    Raises:
        CheckpointError: If a file is missing or damaged, or was written by a newer version.
    """
    put_back(folder)
    manifest = read_manifest(folder)
    manifest.check(folder, STATE, "state.safetensors")
    file = folder / STATE
    try:
        tensors = load_file(folder / "state.safetensors")
        saved = _Document.model_validate(upgraded_learner(json.loads(file.read_bytes()), tensors, file))
        owners = {
            name: OwnerState(_tensors_of(folder, f"{name}.safetensors", manifest), values)
            for name, values in saved.owners.items()
        }
        parts = {key: _put_back(tree, tensors) for key, tree in saved.parts.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: {error}.") from None
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {complaint(error)}.") from None
    except KeyError as error:
        raise CheckpointError(f"{file} is damaged: {error} is missing.") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{file} is damaged: it does not describe a learner.") from None
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
    )


class _SavedMethod(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any]


class _SavedHost(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    hash: str


class _Document(BaseModel):
    """The content of `state.json`."""

    model_config = ConfigDict(extra="forbid")

    schema_: Literal["nacre.learner/2"] = Field(alias="schema")
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


def _tensors_of(folder: Path, name: str, manifest: Manifest) -> dict[str, Tensor]:
    return load_file(folder / name) if name in manifest.sha256 else {}  # an owner that has learned nothing has no file


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    own_copies = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        save_file(own_copies, file)
    except SafetensorError as error:  # a full disk, among others
        raise CheckpointError(f"{file} cannot be written: {error}.") from None


def _taken_out(tree: Tree, name: str, tensors: dict[str, Tensor]) -> Tree:
    """The tree with references in the place of its tensors, which go into ``tensors``."""
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {TENSOR: name}
    if isinstance(tree, list):
        return [_taken_out(value, f"{name}/{number}", tensors) for number, value in enumerate(tree)]
    if isinstance(tree, dict):
        return {key: _taken_out(value, f"{name}/{key}", tensors) for key, value in tree.items()}
    return tree


def _put_back(tree: Tree, tensors: dict[str, Tensor]) -> Tree:
    if isinstance(tree, list):
        return [_put_back(value, tensors) for value in tree]
    if isinstance(tree, dict):
        if tree.keys() == {TENSOR}:
            return tensors[tree[TENSOR]]
        return {key: _put_back(value, tensors) for key, value in tree.items()}
    return tree
