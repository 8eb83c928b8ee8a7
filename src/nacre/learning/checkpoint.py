"""A snapshot on disk: tensors as safetensors, plain values as JSON, a manifest with the hash of every file.

OWNER.safetensors     what an owner has learned, by public name: adapter; of encoder-only hosts head; routing
state.safetensors     the parts' tensors
state.json            everything else: seed, tasks, what parts remember, method, settings, the model's name and hash
manifest.json         sha256 of every file of the folder; its presence means that the folder is complete

No learner and no model is needed to read or write one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nacre.errors import CheckpointError
from nacre.files import build_folder, sha256, to_json
from nacre.learning.snapshot import OwnerState, Snapshot, Tree
from nacre.migrations import LEARNER_SCHEMA, upgraded_learner

MANIFEST = "manifest.json"
TENSOR = "$tensor"
"""In ``state.json``, ``{"$tensor": NAME}`` stands for a tensor of ``state.safetensors``."""


def save(snapshot: Snapshot, folder: Path) -> None:
    """Write the snapshot as a folder; a folder of that name is replaced, and only once the new one is complete."""

    def fill(place: Path) -> None:
        write_files(snapshot, place)
        write_manifest(place)

    build_folder(folder, fill)


def write_files(snapshot: Snapshot, folder: Path) -> None:
    """Write everything but the manifest."""
    for name, owner in snapshot.owners.items():
        if owner.tensors or name == "adapter":
            save_file(_own_copies(owner.tensors), folder / f"{name}.safetensors")
    tensors: dict[str, Tensor] = {}
    parts = {key: _taken_out(tree, key, tensors) for key, tree in snapshot.parts.items()}
    save_file(_own_copies(tensors), folder / "state.safetensors")
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
    (folder / "state.json").write_text(to_json(document) + "\n", encoding="utf-8")


def write_manifest(folder: Path) -> None:
    """List every file of the folder with its hash. Written last."""
    hashes = {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    (folder / MANIFEST).write_text(to_json({"schema": LEARNER_SCHEMA, "sha256": hashes}) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Compare every file of the folder with the manifest.

    Raises:
        CheckpointError: Naming the file that is missing or has other bytes than when it was written.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}: it is not a saved learner, or an incomplete one.") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise CheckpointError(f"{folder / MANIFEST} is damaged.") from None
    for name, expected in listed.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, although {MANIFEST} lists it.")
        if sha256(file) != expected:
            raise CheckpointError(f"{file} is damaged: its sha256 differs from the one in {MANIFEST}.")


def read(folder: Path) -> Snapshot:
    """Open what `save` wrote, in today's format or an earlier one, after verifying it.

    Raises:
        CheckpointError: If a file is missing or damaged, or was written by a newer version.
    """
    verify(folder)
    document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    try:
        tensors = load_file(folder / "state.safetensors")
        document = upgraded_learner(document, tensors, folder / "state.json")
        owners = {
            name: OwnerState(_tensors_of(folder / f"{name}.safetensors"), values)
            for name, values in document["owners"].items()
        }
        parts = {key: _put_back(tree, tensors) for key, tree in document["parts"].items()}
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder}: {error}.") from None
    return Snapshot(
        seed=document["seed"],
        tasks=tuple(document["tasks"]),
        owners=owners,
        parts=parts,
        head=document["head"],
        method=document["method"],
        optim=document["optim"],
        decoding=document["decoding"],
        host=document["model"],
        forms=document["forms"],
    )


def _tensors_of(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.exists() else {}  # an owner that has learned nothing has no file


def _own_copies(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


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
