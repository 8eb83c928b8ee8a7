"""The typed record of a run, ``results.json``: the one thing that reports and comparisons read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nacre.errors import CheckpointError
from nacre.files import to_json, write_atomically
from nacre.records.base_ability import AbilityRecord
from nacre.records.end_tasks import EndTaskRecord
from nacre.tasks.metrics import title

SCHEMA = "nacre.results/1"

TASK_IDENTITY = "task identity at test"
"""The protocol's key that says how a host is told the task, other than by its prompt; absent where it is not."""

Matrix = list[list[float | None]]


class Seconds(BaseModel):
    """Wall seconds. train: one entry a task, in stream order; evaluate: one entry a row of the matrix (T + 1).
    tokens_per_second: those learnt, padding not counted, by the seconds of learning."""

    model_config = ConfigDict(extra="forbid")

    train: list[float | None]
    evaluate: list[float | None]
    tokens_per_second: float | None = None


class Tokens(BaseModel):
    """What training computed on. tokens: inputs and targets over all steps, one entry a task, in stream order;
    positions: the same with padding; padding_share: of all tasks' positions."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[int | None]
    positions: list[int | None]
    padding_share: float | None


class Record(BaseModel):
    """What a run found. Undefined values are null: never zero, never a guess.

    matrix, valid_answers: T + 1 rows (before any task, then after each), T columns in stream order, fractions.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["nacre.results/1"] = Field(default="nacre.results/1", alias="schema")
    method: str
    title: str
    parameters: dict[str, Any]
    stream: str
    tasks: list[str]
    model: str
    seed: int
    metric: str
    matrix: Matrix
    valid_answers: Matrix
    perplexity: Matrix | None = Field(default=None, description="of tasks of unlabelled text; null without any")
    average_accuracy: float | None
    learning_accuracy: float | None
    pooled_accuracy: float | None
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None
    trainable_parameters: int = Field(description="of the last task learnt")
    trainable_parameters_per_task: list[int | None]
    stored_parameters: int = Field(description="numbers kept besides the pretrained model, after the last task")
    seconds: Seconds
    training: Tokens | None = Field(default=None, description="null in records from before it was counted")
    end_tasks: EndTaskRecord | None = Field(default=None, description="of copies fine-tuned on end tasks")
    base_ability: AbilityRecord | None = Field(default=None, description="of what pre-training taught")
    peak_rss_bytes: int
    protocol: dict[str, Any]
    protocol_hash: str
    definitions: dict[str, str] = Field(description="the formula behind each metric, in words")

    @property
    def metrics(self) -> list[str]:
        """Each column's metric, by the headings of ``nacre.tasks.metrics``. The protocol knows them; where there is
        none of a run, as in a record put together by hand, ``metric`` holds for all."""
        tasks = self.protocol.get("tasks")
        named = [task.get("metric", self.metric) for task in tasks] if isinstance(tasks, list) else []
        return [title(name) for name in (named if len(named) == len(self.tasks) else [self.metric] * len(self.tasks))]

    def as_json(self) -> str:
        return to_json(self.model_dump(by_alias=True))

    def write(self, path: Path) -> None:
        write_atomically(path, self.as_json() + "\n")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record; raises ``CheckpointError`` if the file is missing or not of this schema."""
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist: the run is not finished, or this is no run.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(f"{path} is not a record of schema {SCHEMA}: {where}: {first['msg']}.") from None
