"""What a run found of its model's base ability."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from nacre.evaluation.base_ability.scores import DEFINITION, AbilityScore, Programs, Score, score_of

BEFORE = "before"


class AbilityResult(BaseModel):
    """One task's, at one stage. after: the task learnt last, or ``before`` any. changes: against before, row by row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str
    task: str
    rows: int
    scores: dict[str, Score]
    changes: dict[str, Score] | None = Field(description="null before any task is learnt")
    truncated: int
    seconds: float
    programs: Programs | None


@dataclass(frozen=True)
class Ends:
    """One metric of one task: before any task, after the last one, and the change."""

    task: str
    metric: str
    before: Score
    after: Score
    change: Score


class AbilityAverage(BaseModel):
    """Over the multiple-choice tasks at one stage. change: against before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str
    value: float
    change: float | None


class AbilityRecord(BaseModel):
    """What ``results.json`` says of base ability; rows, likelihoods and programs are in the files."""

    model_config = ConfigDict(extra="forbid")

    definition: str = DEFINITION
    results: list[AbilityResult]
    averages: list[AbilityAverage] = Field(description="none where only programs were written")

    def ends(self) -> list[Ends]:
        """Each task's metrics before any task and after the last."""
        last = self.results[-1].after
        first = {result.task: result for result in self.results if result.changes is None}
        return [
            Ends(result.task, metric, first[result.task].scores[metric], score, (result.changes or {})[metric])
            for result in self.results
            if result.after == last and result.changes is not None
            for metric, score in result.scores.items()
        ]


def record_of(stages: Sequence[str], scores: Sequence[Sequence[AbilityScore]]) -> AbilityRecord:
    """Of the stages, the first of which is before any task, and each stage's scores, by task."""
    results, averages = [], []
    for number, (after, found) in enumerate(zip(stages, scores, strict=True)):
        for first, score in zip(scores[0], found, strict=True):
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
        if (value := _average(found)) is not None:
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
