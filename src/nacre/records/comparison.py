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
    """Runs that differ in their seed only.

    Attributes:
        name: The method's and, where several groups have it, the settings in which they differ.
        method: With its modifiers.
        title: The method's.
        parameters: The method's.
        settings: How the runs were trained, besides the method's parameters.
        seeds: The runs', in their order.
        runs: Their folders.
        metrics: By key; None where a metric is not defined in every run.
    """

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

    Attributes:
        first: A group's name.
        second: Another group's name.
        seeds: Those that both have.
        metrics: The differences over seeds, by key.
        rows: The difference of average accuracy over test rows; None where rows have no scores.
        over_seeds: The verdict on the first's average accuracy by the interval over seeds alone.
        over_rows: The verdict by the interval over test rows alone.
        verdict: By both: the first is better (or worse) only if neither interval includes 0.
        reason: What the verdict rests on.
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
    """What comparing runs gives.

    Attributes:
        stream: The runs'.
        tasks: The runs'.
        model: The runs'.
        protocol_hash: The runs'.
        bootstrap_seed: Of the interval over test rows.
        groups: Highest average accuracy first.
        pairs: Every two of the groups, in that order.
        unfinished: Folders of runs that were left out.
        definitions: Of each metric, in words.
    """

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
        """The comparison as JSON text."""
        document = self.model_dump()
        return to_json({"schema": document.pop("schema_"), **document})
