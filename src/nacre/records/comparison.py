"""The typed result of comparing runs, as it is printed, drawn and written as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nacre.files import to_json

Verdict = Literal["better", "worse", "not shown"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OverSeeds(_Frozen):
    """A metric over seeds.

    Attributes:
        n: How many seeds.
        mean: Over the seeds.
        deviation: The sample standard deviation (n - 1); None of one seed.
        low: Lower end of the 95 % Student interval, cut where the metric's range ends; None of one seed.
        high: Upper end, likewise.
    """

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


class OverRows(_Frozen):
    """95 % percentile bootstrap over the test rows, the trained models as they are.

    Attributes:
        low: Lower end of the interval.
        high: Upper end.
        samples: Draws of the bootstrap.
    """

    low: float
    high: float
    samples: int


class TaskOrder(_Frozen):
    """An order in which the tasks were learned, and the protocol that goes with it.

    Attributes:
        name: The stream's name; the tasks' where two orders have the same.
        tasks: In this order.
        protocol_hash: Of its runs' protocol.
    """

    name: str
    tasks: list[str]
    protocol_hash: str


class Group(_Frozen):
    """Runs that differ in their seed, or in the order of the tasks, only.

    Attributes:
        name: The method's and, where several groups have it, the settings in which they differ.
        method: With its modifiers.
        title: The method's.
        parameters: The method's.
        settings: How the runs were trained, besides the method's parameters.
        seeds: The runs', in their order.
        runs: Their folders, seed by seed, and of a seed order by order.
        metrics: By key, a seed's value being its mean over the orders; None where a metric is not defined in every run.
        by_order: Average accuracy in each order; None where it is not defined in every run.
    """

    name: str
    method: str
    title: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    seeds: list[int]
    runs: list[str]
    metrics: dict[str, OverSeeds | None]
    by_order: list[OverSeeds | None]


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
        stream: The runs'; of several orders, their names.
        tasks: In the first order.
        model: The runs'.
        protocol_hash: The runs'; None where the orders have one each.
        orders: In which the tasks were learned; every metric is averaged over them.
        bootstrap_seed: Of the interval over test rows.
        groups: Highest average accuracy first.
        pairs: Every two of the groups, in that order.
        unfinished: Folders of runs that were left out.
        definitions: Of each metric, in plain language.
        remarks: What a reader of the averages should know.
    """

    schema_: Literal["nacre.comparison/1"] = "nacre.comparison/1"
    stream: str
    tasks: list[str]
    model: str
    protocol_hash: str | None
    orders: list[TaskOrder]
    bootstrap_seed: int
    groups: list[Group]
    pairs: list[Pair]
    unfinished: list[str]
    definitions: dict[str, str]
    remarks: list[str]

    def as_json(self) -> str:
        """The comparison as JSON text."""
        document = self.model_dump()
        return to_json({"schema": document.pop("schema_"), **document})
