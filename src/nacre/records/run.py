"""The typed record of a run, `results.json`: the only thing that reports and comparisons read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from nacre.evaluation.matrix import RUN_METRICS, RunMetric
from nacre.files import hash_of, to_json, write_atomically
from nacre.migrations import RECORD_SCHEMA
from nacre.records.base_ability import AbilityRecord
from nacre.records.decisions import Decisions
from nacre.records.end_tasks import EndTaskRecord
from nacre.records.fields import Difference, Duration, Number, Share
from nacre.records.probe import ProbeMetric, ProbeRecord
from nacre.records.stage import PseudoRowsRecord
from nacre.tasks.metrics import title

RECORD_HASH = "sha256"
"""The key of `results.json` that holds the hash of all others."""

TASK_IDENTITY = "task identity at test"
"""The protocol's key that says that each row's task is given, other than by its prompt; absent where it is not."""

Matrix = list[list[Share | None]]


class Seconds(BaseModel):
    """Wall-clock seconds.

    Attributes:
        train: One entry a task, in stream order.
        evaluate: One entry a row of the matrix (T + 1).
        tokens_per_second: TokenCounts learned per second of learning, without padding.
    """

    model_config = ConfigDict(extra="forbid")

    train: list[Duration | None]
    evaluate: list[Duration | None]
    tokens_per_second: Duration | None = None


class TokenCounts(BaseModel):
    """How many tokens training computed on.

    Attributes:
        tokens: Inputs and targets over all steps; one entry a task, in stream order.
        positions: The same with padding.
        padding_share: Of all tasks' positions.
    """

    model_config = ConfigDict(extra="forbid")

    tokens: list[Number | None]
    positions: list[Number | None]
    padding_share: Share | None


class RunRecord(BaseModel):
    """The results of a run. Undefined values are null: never zero, never a guess.

    Attributes:
        matrix: Scores as fractions: T + 1 rows (before any task, then after each), T columns in stream order.
        valid_answers: Shares of answers that are among the labels, likewise.
        definitions: The formula behind each metric.
        optim: How it was trained (`nacre.learning.settings.Optim`); null in records from before it was kept.
        environment: Versions, machine and device, as in `environment.json`, of the process that finished the run.
        finished: When, in UTC, to the second.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["nacre.results/2"] = Field(default=RECORD_SCHEMA, alias="schema")
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
    perplexity: list[list[Duration | None]] | None = Field(
        default=None, description="of tasks of unlabeled text; null without any"
    )
    average_accuracy: Share | None
    learning_accuracy: Share | None
    pooled_accuracy: Share | None
    incremental_accuracy: Share | None = Field(default=None, description="null in records from before it was kept")
    forgetting: Difference | None
    backward_transfer: Difference | None
    forward_transfer: Difference | None
    trainable_parameters: Number = Field(description="of the last task learned")
    trainable_parameters_per_task: list[Number | None]
    stored_parameters: Number = Field(description="numbers kept besides the pretrained model, after the last task")
    seconds: Seconds
    training: TokenCounts | None = Field(default=None, description="null in records from before it was counted")
    pseudo_rows: list[list[PseudoRowsRecord]] | None = Field(
        default=None,
        description="of the rows that were written before each task, one list a task; null where none were",
    )
    decisions: Decisions | None = Field(
        default=None,
        description="after the last task, whose each test row was taken for, how sure the answers were, and where "
        "labels lie; null in methods that decide nothing of it, and in records from before it was kept",
    )
    end_tasks: EndTaskRecord | None = Field(default=None, description="of copies fine-tuned on end tasks")
    base_ability: AbilityRecord | None = Field(default=None, description="of what pre-training taught")
    peak_rss_bytes: Number
    protocol: dict[str, Any]
    protocol_hash: str
    recipe_hash: str | None = Field(
        default=None, description="of recipe.yaml, less what no result depends on; null in old records"
    )
    definitions: dict[str, str] = Field(description="the formula behind each metric")
    optim: dict[str, Any] | None = Field(default=None, description="null in records from before it was kept")
    environment: dict[str, Any] | None = Field(default=None, description="null in records from before it was kept")
    finished: str | None = Field(default=None, description="in UTC; null in records from before it was kept")

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
        """Each column's metric, by the headings of `nacre.tasks.metrics`.

        The protocol knows them; in a record that was put together by hand, `metric` holds for all.
        """
        tasks = self.protocol.get("tasks")
        named = [task.get("metric", self.metric) for task in tasks] if isinstance(tasks, list) else []
        return [title(name) for name in (named if len(named) == len(self.tasks) else [self.metric] * len(self.tasks))]

    def as_json(self) -> str:
        """The text of `results.json`: the record, and under `sha256` the hash of the rest."""
        document = self.model_dump(by_alias=True)
        return to_json({**document, RECORD_HASH: hash_of(document)})

    def write(self, path: Path) -> None:
        """Write `results.json`; it appears whole or not at all."""
        write_atomically(path, self.as_json() + "\n")


def probe_kinds() -> list[type[ProbeRecord]]:
    """The kinds of probes that a record may hold, in the order of its fields."""
    kinds = [kind for field in RunRecord.model_fields.values() for kind in get_args(field.annotation)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, ProbeRecord)]


def all_metrics() -> tuple[RunMetric | ProbeMetric, ...]:
    """Every metric that a record may hold: the run's own, then those of the probes."""
    return (*RUN_METRICS, *(metric for kind in probe_kinds() for metric in kind.metrics))
