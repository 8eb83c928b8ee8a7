"""The typed files of a stage's folder: what learning took, and the row of the score matrix that was measured then."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nacre.errors import CheckpointError
from nacre.files import to_json
from nacre.records.decisions import Decisions
from nacre.records.fields import Duration, Finite, Number, Share
from nacre.settings import complaint

ROW, LEARNED = "row.json", "learned.json"
"""A stage that holds `learned.json` was learned and not yet measured; one that holds `row.json` is finished."""


class PseudoRowsRecord(BaseModel):
    """What became of the samples that were drawn of one earlier task (`nacre.events.PseudoRowsGenerated`).

    Attributes:
        task: The earlier task.
        drawn: How many samples there were.
        parsed: How many of them were a text and an answer that the task has.
        duplicates: How many of these repeated an earlier one.
        kept: How many rows were kept.
        labels: How many of them have each label; empty for free text.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    drawn: Number
    parsed: Number
    duplicates: Number
    kept: Number
    labels: dict[str, Number]


class Learned(BaseModel):
    """What learning a stage took.

    Attributes:
        train_seconds: Wall-clock seconds.
        train_tokens: Tokens of the training rows over all steps (`learning.batches.TokenCount`).
        train_positions: The same with padding.
        trainable_parameters: How many numbers were trained.
        pseudo_rows: Of the earlier tasks of which rows were written; empty in most methods.
    """

    model_config = ConfigDict(extra="forbid")

    train_seconds: Duration
    train_tokens: Number
    train_positions: Number
    trainable_parameters: Number
    pseudo_rows: list[PseudoRowsRecord] = []


class StageRow(BaseModel):
    """A row of the score matrix and its cost; `row.json` of a stage's folder.

    Attributes:
        row: Its number; 0 is before any learning.
        scores: Fractions, one a task; None where a task was not scored.
        valid: Shares of answers that are among the labels, likewise.
        perplexity: Of tasks of unlabeled text; empty in a stream without any.
        train_seconds: How long learning took; None in row 0.
        train_tokens: Tokens of the training rows over all steps (`learning.batches.TokenCount`).
        train_positions: The same with padding.
        evaluate_seconds: How long scoring took.
        trainable_parameters: Of the task that was learned; None in row 0.
        stored_parameters: Numbers kept besides the pretrained model.
        peak_rss_bytes: The most main memory that the process had by then.
        pseudo_rows: See `Learned`.
        decisions: At the last stage of a stream that is learned task after task; None in methods that decide nothing.
    """

    model_config = ConfigDict(extra="forbid")

    row: Number
    scores: list[Share | None]
    valid: list[Share | None]
    perplexity: list[Finite | None] = []
    train_seconds: Duration | None
    train_tokens: Number | None = None
    train_positions: Number | None = None
    evaluate_seconds: Duration
    trainable_parameters: Number | None
    stored_parameters: Number
    peak_rss_bytes: Number
    pseudo_rows: list[PseudoRowsRecord] = []
    decisions: Decisions | None = None


StageFile = TypeVar("StageFile", Learned, StageRow)


def read_document(kind: type[StageFile], file: Path) -> StageFile:
    """Read one of the files.

    Raises:
        CheckpointError: If it is not what this version writes.
    """
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {complaint(error)}.") from None


def write_document(document: Learned | StageRow, file: Path) -> None:
    """Write one of the files, in a folder that is not complete yet."""
    file.write_text(to_json(document.model_dump()) + "\n", encoding="utf-8")
