"""What the end tasks of a run came to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

DEFINITION = (
    "each end task's own copy of the model is fine-tuned whole, with a new linear head on its first token; macro_f1: "
    "mean F1 over the labels among the test rows; f1: the one that the papers' tables hold, ChemProt's micro-F1 and "
    "the others' macro-F1; averages: over tasks for each seed, then mean and sample deviation over seeds"
)


class EndResult(BaseModel):
    """One copy's. after: the domain learnt last; corpus: the end task's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str
    corpus: str
    task: str
    seed: int
    train_rows: int
    test_rows: int
    accuracy: float
    macro_f1: float
    f1: float
    seconds: float
    answers: list[str] = Field(description="to the test rows, in their order")


class EndAverage(BaseModel):
    """Over the end tasks for each seed, then over seeds; deviations are null for a single seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str
    accuracy: float
    accuracy_deviation: float | None
    f1: float
    f1_deviation: float | None
    macro_f1: float
    macro_f1_deviation: float | None


class EndTaskRecord(BaseModel):
    """What ``results.json`` says of the end tasks; their answers are in the files."""

    model_config = ConfigDict(extra="forbid")

    definition: str = DEFINITION
    results: list[EndResult]
    averages: list[EndAverage]


def average(after: str, results: Sequence[EndResult]) -> EndAverage:
    """Of the results after one domain: over tasks, then over seeds."""
    own = [result for result in results if result.after == after]
    seeds = sorted({result.seed for result in own})

    def over_tasks(what: str) -> list[float]:
        return [statistics.fmean(getattr(one, what) for one in own if one.seed == seed) for seed in seeds]

    def deviation(values: list[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    accuracy, f1, macro = over_tasks("accuracy"), over_tasks("f1"), over_tasks("macro_f1")
    return EndAverage(
        after=after,
        accuracy=statistics.fmean(accuracy),
        accuracy_deviation=deviation(accuracy),
        f1=statistics.fmean(f1),
        f1_deviation=deviation(f1),
        macro_f1=statistics.fmean(macro),
        macro_f1_deviation=deviation(macro),
    )
