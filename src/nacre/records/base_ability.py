"""The results of a run's base ability."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from nacre.evaluation.base_ability.scores import DEFINITION, AbilityScore, Programs, Score, score_of
from nacre.records.probe import ProbeMetric, ProbeRecord, ProbeTable, ProbeValue


class AbilityResult(BaseModel):
    """One benchmark's scores at one stage.

    Attributes:
        after: The task that was learned last, or `before` any.
        task: The benchmark.
        rows: How many of its rows were measured.
        scores: By metric.
        changes: Row by row against `before`, by metric; null before any task is learned.
        truncated: How many inputs were cut.
        seconds: How long it took.
        programs: What became of generated programs; null without any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    after: str
    task: str
    rows: int
    scores: dict[str, Score]
    changes: dict[str, Score] | None = Field(description="null before any task is learned")
    truncated: int
    seconds: float
    programs: Programs | None


@dataclass(frozen=True)
class BeforeAfter:
    """One metric of one benchmark: before any task, after the last one, and the change."""

    task: str
    metric: str
    before: Score
    after: Score
    change: Score


class AbilityAverage(BaseModel):
    """Mean over the multiple-choice benchmarks at one stage, and its change against `before`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    after: str
    value: float
    change: float | None


class AbilityRecord(ProbeRecord):
    """What `results.json` says of base ability; rows, likelihoods and programs are in the files.

    Attributes:
        definition: How benchmarks are scored, in words.
        results: One for each stage and benchmark.
        averages: One for each stage; none where only programs were written.
    """

    metrics: ClassVar[tuple[ProbeMetric, ...]] = (
        ProbeMetric(
            "base_ability",
            "Base ability",
            "%",
            "higher",
            "mean over the multiple-choice tasks of base ability after the last task, acc_norm or else acc",
        ),
        ProbeMetric(
            "base_ability_change",
            "Base ability, change",
            "points",
            "higher",
            "that mean less what it was before any task",
        ),
    )

    definition: str = DEFINITION
    results: list[AbilityResult] = Field(min_length=1)
    averages: list[AbilityAverage] = Field(description="none where only programs were written")

    def values(self, last_task: str) -> dict[str, float | None]:
        last = self.averages[-1] if self.averages else None
        return {
            "base_ability": None if last is None else last.value,
            "base_ability_change": None if last is None else last.change,
        }

    def problems(self) -> Iterator[str]:
        first = {result.task: result for result in self.results if result.after == self.results[0].after}
        for number, result in enumerate(self.results):
            key = f"base_ability.results.{number}"
            if result.task not in first:
                yield f"{key}: '{result.task}' was not measured before any task"
            elif (result.changes is None) != (result is first[result.task]):
                yield f"{key}.changes: only results before any task have none"
            elif result.changes is not None and not (
                result.changes.keys() == result.scores.keys() == first[result.task].scores.keys()
            ):
                yield f"{key}.changes: other metrics than its scores have"
        changes = [mean.value - self.averages[0].value if number else None for number, mean in enumerate(self.averages)]
        for number, (mean, change) in enumerate(zip(self.averages, changes, strict=True)):
            if mean.change != change:
                yield f"base_ability.averages.{number}.change: {mean.change}, and the values give {change}"

    def table(self) -> ProbeTable:
        return ProbeTable(
            title="Base ability",
            note="Published benchmarks of what pre-training taught, before any task and after the last one. In "
            "percent, ± standard error; the change in points, with the standard error over the same rows.",
            first="Benchmark",
            columns=("Before", "After", "Change"),
            rows=tuple(
                (
                    f"{ends.task}, {ends.metric}",
                    (
                        ProbeValue(ends.before.value, ends.before.standard_error),
                        ProbeValue(ends.after.value, ends.after.standard_error),
                        ProbeValue(ends.change.value, ends.change.standard_error, signed=True),
                    ),
                )
                for ends in self.before_after()
            ),
        )

    def before_after(self) -> list[BeforeAfter]:
        """Each benchmark's metrics before any task and after the last."""
        last = self.results[-1].after
        first = {result.task: result for result in self.results if result.changes is None}
        return [
            BeforeAfter(result.task, metric, first[result.task].scores[metric], score, (result.changes or {})[metric])
            for result in self.results
            if result.after == last and result.changes is not None
            for metric, score in result.scores.items()
        ]


def record_of(stages: Sequence[str], scores: Sequence[Sequence[AbilityScore]]) -> AbilityRecord:
    """Put scores together, with their changes.

    Args:
        stages: Their names; the first is before any task.
        scores: Of each stage, each benchmark's scores.
    """
    results, averages = [], []
    for number, (after, present) in enumerate(zip(stages, scores, strict=True)):
        for first, score in zip(scores[0], present, strict=True):
            results.append(
                AbilityResult(
                    after=after,
                    task=score.task,
                    rows=score.rows,
                    scores=score.scores,
                    changes=_changes(first, score) if number else None,
                    truncated=score.truncated,
                    seconds=score.seconds,
                    programs=score.programs,
                )
            )
        if (value := _average(present)) is not None:
            base = _average(scores[0])
            change = value - base if number and base is not None else None
            averages.append(AbilityAverage(after=after, value=value, change=change))
    return AbilityRecord(results=results, averages=averages)


def _changes(first: AbilityScore, score: AbilityScore) -> dict[str, Score]:
    """Of each metric: the same rows were measured, so that the row-wise differences say how sure the change is."""
    return {
        metric: score_of([int(now) - int(then) for now, then in zip(right, first.right[metric], strict=True)])
        for metric, right in score.right.items()
    }


def _average(scores: Sequence[AbilityScore]) -> float | None:
    chosen = [score.scores[score.headline].value for score in scores if score.log_likelihoods is not None]
    return statistics.fmean(chosen) if chosen else None
