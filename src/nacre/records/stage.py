"""The typed files of a stage's folder: what learning took, and the row of the score matrix that was measured then."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nacre.errors import CheckpointError
from nacre.files import to_json
from nacre.records.fields import Count, Duration, Finite, Share

ROW, LEARNED = "row.json", "learned.json"
"""A stage that holds `learned.json` was learned and not yet measured; one that holds `row.json` is finished."""


class Learned(BaseModel):
    """What learning a stage took.

    Attributes:
        train_seconds: Wall-clock seconds.
        train_tokens: Tokens of the training rows over all steps (`learning.batches.TokenCount`).
        train_positions: The same with padding.
        trainable_parameters: How many numbers were trained.
    """

    model_config = ConfigDict(extra="forbid")

    train_seconds: Duration
    train_tokens: Count
    train_positions: Count
    trainable_parameters: Count


class StageRow(BaseModel):
    """A row of the score matrix and its cost; `row.json` of a stage's folder.

    Attributes:
        row: Its number; 0 is before any learning.
        scores: Fractions, one a task; None where a task was not scored.
        valid: Shares of answers that are among the labels, likewise.
        perplexity: Of tasks of unlabeled text; empty in a stream without any.
        train_seconds: How long learning took; None in row 0.
        train_tokens: TokenCounts of the training rows over all steps (`learning.batches.TokenCount`).
        train_positions: The same with padding.
        evaluate_seconds: How long scoring took.
        trainable_parameters: Of the task that was learned; None in row 0.
        stored_parameters: Numbers kept besides the pretrained model.
        peak_rss_bytes: The most main memory that the process had by then.
    """

    model_config = ConfigDict(extra="forbid")

    row: Count
    scores: list[Share | None]
    valid: list[Share | None]
    perplexity: list[Finite | None] = []
    train_seconds: Duration | None
    train_tokens: Count | None = None
    train_positions: Count | None = None
    evaluate_seconds: Duration
    trainable_parameters: Count | None
    stored_parameters: Count
    peak_rss_bytes: Count


Document = TypeVar("Document", Learned, StageRow)


def read_document(kind: type[Document], file: Path) -> Document:
    """Read one of the files.

    Raises:
        CheckpointError: If it is not what this version writes.
    """
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{file} is damaged: {f'{where}: ' if where else ''}{first['msg']}.") from None


def write_document(document: Learned | StageRow, file: Path) -> None:
    """Write one of the files, in a folder that is not complete yet."""
    file.write_text(to_json(document.model_dump()) + "\n", encoding="utf-8")
