"""The results of a run's end tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from nacre.records.probe import ProbeMetric, ProbeRecord, ProbeTable, ProbeValue

END_TASKS_DEFINITION = (
    "each end task's own copy of the model is fine-tuned whole, with a new linear head on its first token; macro_f1: "
    "mean F1 over the labels among the test rows; f1: the one that the papers' tables hold, ChemProt's micro-F1 and "
    "the others' macro-F1; averages: over tasks for each seed, then mean and sample deviation over seeds"
)


class EndResult(BaseModel):
    """The result of one fine-tuned copy.

    Attributes:
        after: The domain that was learned last.
        corpus: The end task's own domain.
        task: The end task.
        seed: The copy's seed.
        train_rows: Rows it was fine-tuned on.
        test_rows: Rows it was tested on.
        accuracy: Share of right answers.
        macro_f1: Mean F1 over the labels among the test rows.
        f1: The one that papers report: micro-F1 of ChemProt, macro-F1 of the others.
        seconds: How long it took.
        answers: To the test rows, in their order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    """Means over the end tasks for each seed, then over seeds; deviations are null for a single seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    after: str
    accuracy: float
    accuracy_deviation: float | None
    f1: float
    f1_deviation: float | None
    macro_f1: float
    macro_f1_deviation: float | None


class EndTaskRecord(ProbeRecord):
    """What `results.json` says of the end tasks; their answers are in the files.

    Attributes:
        definition: How copies are fine-tuned and scored, in words.
        results: One for each stage, end task and seed.
        averages: One for each stage.
    """

    metrics: ClassVar[tuple[ProbeMetric, ...]] = (
        ProbeMetric(
            "end_task_f1",
            "End tasks, F1",
            "%",
            "higher",
            "F1 of the end tasks' own copies after the last domain, mean over end tasks and their seeds",
        ),
        ProbeMetric("end_task_accuracy", "End tasks, accuracy", "%", "higher", "accuracy of the same copies"),
    )

    definition: str = END_TASKS_DEFINITION
    results: list[EndResult]
    averages: list[EndAverage]

    def values(self, last_task: str) -> dict[str, float | None]:
        last = next((mean for mean in self.averages if mean.after == last_task), None)
        return {
            "end_task_f1": None if last is None else last.f1,
            "end_task_accuracy": None if last is None else last.accuracy,
        }

    def problems(self) -> Iterator[str]:
        measured = {result.after for result in self.results}
        for number, mean in enumerate(self.averages):
            if mean.after not in measured or not _same(mean, average(mean.after, self.results)):
                yield f"end_tasks.averages.{number}: not the average of the results after '{mean.after}'"

    def table(self) -> ProbeTable:
        return ProbeTable(
            title="End tasks",
            note=f"{self.definition[:1].upper()}{self.definition[1:]}. In percent, ± deviation over seeds.",
            first="After",
            columns=("F1", "macro-F1", "Accuracy"),
            rows=tuple(
                (
                    mean.after,
                    (
                        ProbeValue(mean.f1, mean.f1_deviation),
                        ProbeValue(mean.macro_f1, mean.macro_f1_deviation),
                        ProbeValue(mean.accuracy, mean.accuracy_deviation),
                    ),
                )
                for mean in self.averages
            ),
        )


def average(after: str, results: Sequence[EndResult]) -> EndAverage:
    """Average the results after one domain over tasks, then over seeds.

    Args:
        after: The domain.
        results: Of any domains.
    """
    own = [result for result in results if result.after == after]
    seeds = sorted({result.seed for result in own})

    def over_tasks(score: str) -> list[float]:
        return [statistics.fmean(getattr(result, score) for result in own if result.seed == seed) for seed in seeds]

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


def _same(left: EndAverage, right: EndAverage) -> bool:
    """But for rounding, which versions of Python may do differently."""
    ours, theirs = left.model_dump(exclude={"after"}), right.model_dump(exclude={"after"})
    return all(
        (ours[key] is None) == (theirs[key] is None) and math.isclose(ours[key] or 0, theirs[key] or 0, abs_tol=1e-9)
        for key in ours
    )
