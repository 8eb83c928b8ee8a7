"""Results of a probe on disk: one file each, bound by hash to the learner that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from nacre.errors import CheckpointError
from nacre.files import hash_of, read_bytes, to_json, write_atomically
from nacre.learning.checkpoint import is_learners
from nacre.manifest import read_manifest

Result = TypeVar("Result", bound=BaseModel)

STAGE = "stage"
"""The key of a stored result that says of which stage it is."""


def read_result(kind: type[Result], file: Path, stage: Path) -> Result | None:
    """Read a stored result.

    Args:
        kind: Its type.
        file: Where it lies if it was measured.
        stage: The folder of the stage that was measured.

    Returns:
        The result; None if there is no file.

    Raises:
        CheckpointError: If the file is damaged, or of another learner.
    """
    if not file.exists():
        return None
    advice = "delete it, and the same command measures it again"
    try:
        document = json.loads(read_bytes(file))
        measured = document.pop(STAGE, None)
        result = kind.model_validate(document)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise CheckpointError(f"{file} is damaged; {advice}.") from None
    older = measured is None and read_manifest(stage).run is None
    if not older and measured != _mark(stage):
        raise CheckpointError(f"{file} was measured on another learner than the one in '{stage}'; {advice}.")
    return result


def write_result(result: BaseModel, file: Path, stage: Path, indent: int | None = 2) -> None:
    """Store a result; the file appears whole or not at all.

    Args:
        result: What was measured.
        file: Where it is to lie.
        stage: The folder of the stage that was measured.
        indent: Of the JSON.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {**result.model_dump(mode="json"), STAGE: _mark(stage)}
    write_atomically(file, to_json(document, indent=indent) + "\n")


def _mark(stage: Path) -> str:
    """Hash of the run and of the learner in a stage, which is the same when the stage was learned again."""
    manifest = read_manifest(stage)
    learner = {name: digest for name, digest in manifest.sha256.items() if is_learners(name)}
    return hash_of({"run": manifest.run, "learner": learner})
