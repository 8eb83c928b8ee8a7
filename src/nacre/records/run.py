"""The typed record of a run, `results.json`: the only thing that reports and comparisons read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nacre.errors import CheckpointError
from nacre.evaluation.matrix import RUN_METRICS, RunMetric
from nacre.files import to_json, write_atomically
from nacre.records.base_ability import AbilityRecord
from nacre.records.end_tasks import EndTaskRecord
from nacre.records.probe import ProbeMetric, ProbeRecord
from nacre.tasks.metrics import title

RECORD_SCHEMA = "nacre.results/1"

TASK_IDENTITY = "task identity at test"
"""The protocol's key that says that each row's task is given, other than by its prompt; absent where it is not."""

Matrix = list[list[float | None]]


class Seconds(BaseModel):
    """Wall-clock seconds.

    Attributes:
        train: One entry a task, in stream order.
        evaluate: One entry a row of the matrix (T + 1).
        tokens_per_second: TokenCounts learned per second of learning, without padding.
    """

    model_config = ConfigDict(extra="forbid")

    train: list[float | None]
    evaluate: list[float | None]
    tokens_per_second: float | None = None


class TokenCounts(BaseModel):
    """How many tokens training computed on.

    Attributes:
        tokens: Inputs and targets over all steps; one entry a task, in stream order.
        positions: The same with padding.
        padding_share: Of all tasks' positions.
    """

    model_config = ConfigDict(extra="forbid")

    tokens: list[int | None]
    positions: list[int | None]
    padding_share: float | None


class RunRecord(BaseModel):
    """The results of a run. Undefined values are null: never zero, never a guess.

    Attributes:
        matrix: Scores as fractions: T + 1 rows (before any task, then after each), T columns in stream order.
        valid_answers: Shares of answers that are among the labels, likewise.
        definitions: The formula behind each metric, in words.
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
    perplexity: Matrix | None = Field(default=None, description="of tasks of unlabeled text; null without any")
    average_accuracy: float | None
    learning_accuracy: float | None
    pooled_accuracy: float | None
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None
    trainable_parameters: int = Field(description="of the last task learned")
    trainable_parameters_per_task: list[int | None]
    stored_parameters: int = Field(description="numbers kept besides the pretrained model, after the last task")
    seconds: Seconds
    training: TokenCounts | None = Field(default=None, description="null in records from before it was counted")
    end_tasks: EndTaskRecord | None = Field(default=None, description="of copies fine-tuned on end tasks")
    base_ability: AbilityRecord | None = Field(default=None, description="of what pre-training taught")
    peak_rss_bytes: int
    protocol: dict[str, Any]
    protocol_hash: str
    definitions: dict[str, str] = Field(description="the formula behind each metric, in words")

    def value(self, key: str) -> float | None:
        """The value of a metric, of the run or of a probe.

        Args:
            key: The metric's.

        Returns:
            A fraction; None where it is not defined or was not measured.
        """
        if key in {metric.key for metric in RUN_METRICS}:
            value: float | None = getattr(self, key)
            return value
        measured = [values for probe in self.probes if key in (values := probe.values(self.tasks[-1]))]
        return measured[0][key] if measured else None

    @property
    def probes(self) -> list[ProbeRecord]:
        """What the run's probes found, in the order of the fields."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return [value for value in values if isinstance(value, ProbeRecord)]

    @property
    def task_metrics(self) -> list[str]:
        """Each column's metric, by the headings of `nacre.tasks.metrics`. The protocol knows them; in a record that was
        put together by hand, `metric` holds for all."""
        tasks = self.protocol.get("tasks")
        named = [task.get("metric", self.metric) for task in tasks] if isinstance(tasks, list) else []
        return [title(name) for name in (named if len(named) == len(self.tasks) else [self.metric] * len(self.tasks))]

    def as_json(self) -> str:
        """The text of `results.json`."""
        return to_json(self.model_dump(by_alias=True))

    def write(self, path: Path) -> None:
        """Write `results.json`; it appears whole or not at all."""
        write_atomically(path, self.as_json() + "\n")

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a record.

        Args:
            path: A `results.json`.

        Raises:
            CheckpointError: If the file is missing or not of this schema.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist: the run is not finished, or this is not a run.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(
                f"{path} is not a record of schema {RECORD_SCHEMA}: {where}: {first['msg']}."
            ) from None


def probe_kinds() -> list[type[ProbeRecord]]:
    """The kinds of probes that a record may hold, in the order of its fields."""
    kinds = [kind for field in RunRecord.model_fields.values() for kind in get_args(field.annotation)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, ProbeRecord)]


def all_metrics() -> tuple[RunMetric | ProbeMetric, ...]:
    """Every metric that a record may hold: the run's own, then those of the probes."""
    return (*RUN_METRICS, *(metric for kind in probe_kinds() for metric in kind.metrics))
