"""What a version says of itself: `version.json` in its folder, beside the learner (`nacre.learning.checkpoint`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nacre.errors import CheckpointError
from nacre.evaluation.base_ability.scores import AbilityScore
from nacre.files import read_bytes, to_json
from nacre.records.fields import Duration, Number, Share
from nacre.settings import complaint
from nacre.store.settings import TestRows

FILE = "version.json"


Action = Literal["init", "learn", "forget", "import"]


class RecordedScore(BaseModel):
    """The score of a task in a version.

    Attributes:
        value: By the task's metric.
        valid: The share of answers that are among its labels; None where it has no labels.
        perplexity: None where it is not unlabeled text.
        rows: On how many test rows, or chunks of text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: Share
    valid: Share | None
    perplexity: float | None
    rows: Number


class LearnedTask(BaseModel):
    """A task that a version has learned.

    Attributes:
        name: The task's.
        content: Its rows by content, as a run's protocol has it (`nacre.tasks.content`).
        source: Where its rows came from: files with their hashes, rows left out or held out.
        test_rows: What was kept of its test rows.
        file: The hash of the store's file that holds them, which is its name; None where none does.
        data: Where they are read again; None where they are not.
        choices: How they were read, limits included.
        score: Its score; None where this version was not measured on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    content: dict[str, Any]
    source: dict[str, Any]
    test_rows: TestRows
    file: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    data: str | None = None
    choices: dict[str, Any] = Field(default_factory=dict)
    score: RecordedScore | None = None

    @property
    def metric(self) -> str:
        """The task's metric."""
        return str(self.content["metric"])


class Version(BaseModel):
    """The content of `version.json`.

    Attributes:
        parent: The name of the version that it was made of; None for a store's first one.
        action: How it was made.
        task: Which task was learned or taken out; None for the first version.
        work: Hash of everything that its learner follows from; the same work is not done twice.
        tasks: What it has learned, in order.
        measured: The tasks that it was measured on, in the order of its predictions.
        ability: Its scores on published benchmarks; none where the store asks for none.
        stored_parameters: Numbers kept besides the pretrained model.
        train_seconds: How long the task was learned; 0 where nothing was.
        evaluate_seconds: How long measuring took.
        environment: What it was computed with.
        created: When, in UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_: Literal["nacre.version/1"] = Field(default="nacre.version/1", alias="schema")
    parent: str | None
    action: Action
    task: str | None
    work: str
    tasks: list[LearnedTask]
    measured: list[str]
    ability: list[AbilityScore]
    stored_parameters: Number
    train_seconds: Duration
    evaluate_seconds: Duration
    environment: dict[str, Any]
    created: str

    @property
    def names(self) -> list[str]:
        """The tasks that it has learned, in order."""
        return [task.name for task in self.tasks]

    def learned(self, name: str) -> LearnedTask | None:
        """The entry of a task; None if it has not learned it."""
        return next((task for task in self.tasks if task.name == name), None)

    def write(self, folder: Path) -> None:
        """Write it into the version's folder."""
        document = self.model_dump(by_alias=True, mode="json")
        (folder / FILE).write_text(to_json(document) + "\n", encoding="utf-8")


def read_version(folder: Path) -> Version:
    """Read what a version says of itself. Its folder has been verified.

    Raises:
        CheckpointError: If it does not describe a version.
    """
    file = folder / FILE
    try:
        return Version.model_validate_json(read_bytes(file))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: '{folder.name}' is not a version of a store.") from None
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {complaint(error)}.") from None
