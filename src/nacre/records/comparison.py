"""The typed result of comparing runs, as it is printed, drawn and written as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nacre.files import to_json

Verdict = Literal["better", "worse", "not shown"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OverSeeds(_Frozen):
    """Mean, sample standard deviation and 95 % Student interval over n seeds; undefined (None) of one."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


class OverRows(_Frozen):
    """95 % percentile bootstrap over the test rows, the trained models as they are."""

    low: float
    high: float
    samples: int


class Group(_Frozen):
    """Runs that differ in their seed only. settings: how was trained, besides the method's parameters.
    metrics: None where a metric is not defined in every run."""

    name: str
    method: str
    title: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    seeds: list[int]
    runs: list[str]
    metrics: dict[str, OverSeeds | None]


class Pair(_Frozen):
    """Two groups on the seeds that both have; every difference is the first's value less the second's.

    over_seeds, over_rows: verdicts on the average accuracy of the first by one interval alone. verdict: by both, the
    first is better (or worse) only if neither interval includes 0. reason: what the verdict rests on.
    """

    first: str
    second: str
    seeds: list[int]
    metrics: dict[str, OverSeeds | None]
    rows: OverRows | None
    over_seeds: Verdict | None
    over_rows: Verdict | None
    verdict: Verdict
    reason: str


class Comparison(_Frozen):
    """groups: highest average accuracy first. pairs: every two of them, in that order. unfinished: left out."""

    schema_: Literal["nacre.comparison/1"] = "nacre.comparison/1"
    stream: str
    tasks: list[str]
    model: str
    protocol_hash: str
    bootstrap_seed: int
    groups: list[Group]
    pairs: list[Pair]
    unfinished: list[str]
    definitions: dict[str, str]

    def as_json(self) -> str:
        document = self.model_dump()
        return to_json({"schema": document.pop("schema_"), **document})
