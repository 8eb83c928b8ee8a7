"""A learner on disk: tensors as safetensors, plain values as JSON, a manifest with the hash of every file.

adapter.safetensors   what was learnt, by public name
head.safetensors      the rows of the classes learnt; of encoder-only hosts only
state.safetensors     the parts' tensors (key/name)
state.json            seed, tasks, the parts' plain values, method, settings, the pretrained model's name and hash
manifest.json         sha256 of every file of the folder; its presence means that the folder is complete
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nacre.errors import CheckpointError
from nacre.evaluation.decoding import Decoding
from nacre.files import build_folder, sha256, to_json
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.registry import build_method

if TYPE_CHECKING:
    from nacre.learning.learner import Learner

SCHEMA = "nacre.learner/1"
MANIFEST = "manifest.json"


def save(learner: Learner, folder: Path) -> None:
    """Write the learner as a folder; a folder of that name is replaced, and only once the new one is complete."""

    def fill(place: Path) -> None:
        write_files(learner, place)
        write_manifest(place)

    build_folder(folder, fill)


def write_files(learner: Learner, folder: Path) -> None:
    """Everything but the manifest."""
    save_file(_own_copies(learner.adapter.tensors()), folder / "adapter.safetensors")
    if head := learner.host.family.tensors():
        save_file(_own_copies(head), folder / "head.safetensors")
    tensors, values = _split(learner.state.parts)
    save_file(_own_copies(tensors), folder / "state.safetensors")
    document = {
        "schema": SCHEMA,
        "seed": learner.state.seed,
        "tasks": learner.state.tasks,
        "slots": learner.adapter.tasks,
        "head": learner.host.family.values(),
        "head_kind": learner.head,
        "parts": values,
        "method": {"name": learner.method.name, "parameters": dict(learner.method.parameters)},
        "optim": learner.optim.model_dump(),
        "decoding": learner.decoding.model_dump(),
        "model": {"name": learner.host.name, "hash": learner.pretrained},
    }
    (folder / "state.json").write_text(to_json(document) + "\n")


def write_manifest(folder: Path) -> None:
    """List every file of the folder with its hash. Written last."""
    hashes = {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    (folder / MANIFEST).write_text(to_json({"schema": SCHEMA, "sha256": hashes}) + "\n")


def verify(folder: Path) -> None:
    """Raise ``CheckpointError`` naming the file that is missing or has other bytes than when it was written."""
    try:
        listed = json.loads((folder / MANIFEST).read_text())["sha256"]
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


def load(kind: type[Learner], folder: Path, host: Host | None, method: Method | None) -> Learner:
    """See ``Learner.load``."""
    verify(folder)
    document = json.loads((folder / "state.json").read_text())
    if document.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{folder / 'state.json'} has schema {document.get('schema')}; this version reads {SCHEMA}."
        )
    if method is None:
        method = _method(folder, document)
    learner = kind(
        host or load_host(document["model"]["name"]),
        method,
        seed=document["seed"],
        optim=Optim(**document["optim"]),
        decoding=Decoding(**document["decoding"]),
        head=document.get("head_kind", "growing"),
    )
    restore(learner, folder, document)
    return learner


def restore(learner: Learner, folder: Path, document: dict[str, Any] | None = None) -> None:
    """Bring a learner that has learnt nothing yet to where the saved one was."""
    if document is None:
        verify(folder)
        document = json.loads((folder / "state.json").read_text())
    if learner.pretrained != document["model"]["hash"]:
        raise CheckpointError(
            f"{folder} was made with another pretrained model: '{document['model']['name']}', "
            f"hash {document['model']['hash'][:12]}; this one has {learner.pretrained[:12]}."
        )
    if (kind := document.get("head_kind", "growing")) != learner.head:
        raise CheckpointError(f"{folder} was made with head={kind}, and this learner has head={learner.head}.")
    try:
        adapter = load_file(folder / "adapter.safetensors")
        tensors = load_file(folder / "state.safetensors")
        head = load_file(folder / "head.safetensors") if document.get("head") else {}
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: {error}.") from None
    learner.adapter.load(adapter, document["slots"])
    learner.host.family.load(head, document.get("head", {}))
    learner.state.seed = document["seed"]
    learner.state.tasks = list(document["tasks"])
    learner.state.parts = _joined(tensors, document["parts"], learner.host.device)


def _method(folder: Path, document: dict[str, Any]) -> Method:
    name = document["method"]["name"]
    if not name:
        raise CheckpointError(
            f"{folder} holds a method that was put together by hand; give it: Learner.load(..., method=...)."
        )
    return build_method(name, document["method"]["parameters"])


def _own_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _split(parts: dict[str, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    tensors = {
        f"{key}/{name}": value
        for key, part in parts.items()
        for name, value in part.items()
        if isinstance(value, Tensor)
    }
    values = {
        key: {name: value for name, value in part.items() if not isinstance(value, Tensor)}
        for key, part in parts.items()
    }
    return tensors, values


def _joined(
    tensors: dict[str, Tensor], values: dict[str, dict[str, Any]], device: torch.device
) -> dict[str, dict[str, Any]]:
    parts = {key: dict(part) for key, part in values.items()}
    for path, tensor in tensors.items():
        key, _, name = path.partition("/")
        parts.setdefault(key, {})[name] = tensor.to(device)
    return parts
