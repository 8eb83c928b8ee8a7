"""Older formats of nacre's files, brought up to date one schema step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from nacre.errors import CheckpointError

LEARNER_SCHEMA = "nacre.learner/3"
RECORD_SCHEMA: Final = "nacre.results/2"

OLD_RECORD_SCHEMAS = ("nacre.results/1",)
"""Formats of `results.json` from before it held its own hash."""

OldDocument = dict[str, Any]


def upgraded_recipe(document: Mapping[str, Any]) -> OldDocument:
    """A run's `recipe.yaml` as this version would have written it.

    Args:
        document: The file's content; it is not changed.
    """
    groups = {"evaluation": _ADDED_TO_EVALUATION, "optim": _ADDED_TO_OPTIM}
    added = {key: {**more, **group} for key, more in groups.items() if isinstance(group := document.get(key), Mapping)}
    return {**_ADDED_TO_RECIPES, **document, **added}


_ADDED_TO_RECIPES: OldDocument = {
    "head": "growing",
    "skip_bad_rows": False,
    "fold_labels": False,
    "method_hash": None,  # every method had a name
    "model_dtype": "float32",
    "model_quantization": "none",
    "model_attention": None,
}
"""Keys that recipes did not have from the beginning, with the value of what happened before."""

_ADDED_TO_EVALUATION: OldDocument = {"label_scores": "sum", "candidates": "true_task", "pseudo_rows": 20.0}
"""The same, of their group `evaluation`."""

_ADDED_TO_OPTIM: OldDocument = {"gradient_checkpointing": False}
"""The same, of their group `optim`."""


def upgraded_record(document: Mapping[str, Any]) -> OldDocument:
    """A run's `results.json` in today's schema, without the hash that its own did not have.

    Args:
        document: The file's content; it is not changed.
    """
    return {**document, "schema": RECORD_SCHEMA}


def upgraded_learner(document: OldDocument, tensor_names: Iterable[str], file: Path) -> OldDocument:
    """A saved learner's ``state.json`` in today's schema.

    Args:
        document: What the file holds.
        tensor_names: Names of the tensors of ``state.safetensors`` beside it.
        file: What an error calls it.

    Raises:
        CheckpointError: If this version does not know the schema.
    """
    while (schema := document.get("schema")) != LEARNER_SCHEMA:
        if schema not in _LEARNER_STEPS:
            raise CheckpointError(f"{file} has schema {schema}; this version reads {', '.join(LEARNER_SCHEMAS)}.")
        document = _LEARNER_STEPS[schema](document, tensor_names)
    # Learners did not always keep how their tasks are asked, nor did they always calibrate labels.
    return {"forms": {}, "calibrations": {}, **document}


def _learner_1_to_2(document: OldDocument, tensor_names: Iterable[str]) -> OldDocument:
    """Owners have a place each; a part's tensors stand where they belong in what it remembers.

    Schema 1 held ``slots`` and ``head`` (the head's values) at the top, ``head_kind`` only since there are two kinds,
    and named a part's tensors KEY/NAME.
    """
    parts: OldDocument = {key: dict(values) for key, values in document["parts"].items()}
    for path in tensor_names:
        key, _, name = path.partition("/")
        parts.setdefault(key, {})[name] = {"$tensor": path}
    for key, shape in _PARTS_1_TO_2.items():
        if key in parts:
            parts[key] = shape(parts[key])
    head = document.get("head") or {}
    owners = {"adapter": {"slots": document["slots"]}} | ({"head": head} if head else {})
    kept = ("seed", "tasks", "method", "optim", "decoding", "model")
    return {
        "schema": "nacre.learner/2",
        "owners": owners,
        "head": document.get("head_kind", "growing"),
        "parts": parts,
        **{key: document[key] for key in kept},
    }


def _elastic_1_to_2(values: OldDocument) -> OldDocument:
    """``fisher/NAME`` or, one for each task, ``2/fisher/NAME``: now a list of mappings."""
    found: dict[str, dict[int, OldDocument]] = {"fisher": {}, "anchor": {}}
    for path, reference in values.items():
        if path == "examples":
            continue
        first, _, rest = path.partition("/")
        number, (kind, _, name) = (int(first), rest.partition("/")) if first.isdigit() else (1, path.partition("/"))
        found[kind].setdefault(number, {})[name] = reference
    ordered = {kind: [by_task[number] for number in sorted(by_task)] for kind, by_task in found.items()}
    return {**ordered, "examples": values["examples"]}


def _groups_1_to_2(values: OldDocument) -> OldDocument:
    return {"groups": values}


_PARTS_1_TO_2: dict[str, Callable[[OldDocument], OldDocument]] = {
    "elastic_weights": _elastic_1_to_2,
    "magnitude_mask": _groups_1_to_2,
}


def _learner_2_to_3(document: OldDocument, _: Iterable[str]) -> OldDocument:
    """Schema 2 had no stages that continue another: every folder holds all of its learner."""
    return {**document, "schema": "nacre.learner/3"}


_LEARNER_STEPS: dict[str, Callable[[OldDocument, Iterable[str]], OldDocument]] = {
    "nacre.learner/1": _learner_1_to_2,
    "nacre.learner/2": _learner_2_to_3,
}

LEARNER_SCHEMAS = (*_LEARNER_STEPS, LEARNER_SCHEMA)
"""The formats of saved learners that this version reads."""
