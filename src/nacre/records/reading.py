"""Reading `results.json`: a record is what a run wrote, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nacre.documents import DocumentError, parse_json
from nacre.errors import CheckpointError
from nacre.files import hash_of, read_text
from nacre.migrations import OLD_RECORD_SCHEMAS, RECORD_SCHEMA, upgraded_record
from nacre.records.checking import problem_of
from nacre.records.run import RECORD_HASH, RunRecord
from nacre.settings import complaint


def read_record(path: Path) -> RunRecord:
    """Read a record, and make sure that it is what a run wrote.

    Args:
        path: A `results.json`. The stages beside it are compared with it.

    Raises:
        CheckpointError: If the file is missing, damaged, changed, or not a record; it names the culprit.
    """
    document = _document(path)
    written = document.pop(RECORD_HASH, None)
    if (schema := document.get("schema")) in OLD_RECORD_SCHEMAS:
        document = upgraded_record(document)  # such records have no hash
    elif schema != RECORD_SCHEMA:
        known = ", ".join([*OLD_RECORD_SCHEMAS, RECORD_SCHEMA])
        raise CheckpointError(f"{path} has schema {str(schema)[:80]}; this version reads {known}.")
    elif written != hash_of(document):
        raise CheckpointError(f"{path} was changed after the run: its {RECORD_HASH} is not that of its content.")
    try:
        record = RunRecord.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a record of schema {RECORD_SCHEMA}: {complaint(error)}.") from None
    if (problem := problem_of(record, path.parent)) is not None:
        raise CheckpointError(f"{path} contradicts itself or its stages: {problem}.")
    return record


def _document(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: the run is not finished, or this is not a run.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointError(f"{path} is damaged: it is not JSON.") from None
    except DocumentError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is damaged: it holds no record.")
    return document
