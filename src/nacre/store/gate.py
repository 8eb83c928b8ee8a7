"""The gate before a new version: what it must keep of the one before it, judged row by row.

A requirement names how much of a task's or benchmark's score may be lost. Both versions answered the same rows, so the
rows are drawn anew with replacement, many times, and each time both are scored (paired bootstrap). Where even the low
end of the interval of the change is within the limit, a larger loss is ruled out, and the score is kept. A score that
is neither kept nor lost by this is unclear: there are too few rows, or the limit is too tight for them. The gate opens
where everything is kept; what is unclear keeps it closed, unless the store says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nacre.documents import shown_text
from nacre.errors import RecipeError, nearest
from nacre.evaluation.base_ability.benchmarks import ABILITIES
from nacre.evaluation.base_ability.scores import AbilityScore
from nacre.evaluation.scoring import score
from nacre.evaluation.uncertainty import LEVEL, NOTHING, Interval, over_rows
from nacre.records.gate_verdict import Against, Judgment, Kept, Unclear
from nacre.seeds import derive
from nacre.tasks.task import Task

EVERY = "*"
"""Every task and benchmark that no other requirement names."""

SAMPLES = 10_000
"""Bootstrap draws over rows."""

SCORED_SAMPLES = 1_000
"""The same where each draw is scored anew, because the metric is not a mean over rows."""

_REQUIREMENT = re.compile(r"\s*(?P<name>[^:]+?)\s*:\s*-?(?P<points>[0-9]+(?:\.[0-9]+)?)\s*pt\s*")

Lines = Sequence[Mapping[str, Any]]
"""What was predicted of a task's test rows, as a version's predictions hold it."""


@dataclass(frozen=True)
class MustKeep:
    """What a new version must keep.

    Attributes:
        text: As it was written.
        limits: How much may be lost, a fraction, by name; `EVERY` for all others.
        unclear: What becomes of scores that are neither kept nor lost; see `GateVerdict`.
        against: Which version a score is compared with: the one before, or the one that had just learned the task
            (of a benchmark, the store's first one), so that small losses do not add up.
    """

    text: str
    limits: Mapping[str, float]
    unclear: Unclear = "fail"
    against: Against = "before"

    @classmethod
    def of(cls, text: str, unclear: Unclear = "fail", against: Against = "before") -> MustKeep:
        """Read it, such as `agnews:-2pt, hellaswag:-1pt, *:-3pt`.

        Args:
            text: As a person wrote it.
            unclear: What becomes of scores that are neither kept nor lost.
            against: Which version each score is compared with.

        Raises:
            RecipeError: If it is not written so.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            found = _REQUIREMENT.fullmatch(part)
            if found is None or float(found["points"]) > 100:
                raise RecipeError(
                    f"must_keep: {shown_text(part.strip())!r} is not a requirement; write NAME:-POINTSpt, for example "
                    "'agnews:-2pt, *:-3pt', where * is every other task and benchmark."
                )
            if found["name"] in limits:
                raise RecipeError(f"must_keep: '{shown_text(found['name'])}' is named twice.")
            limits[found["name"]] = float(found["points"]) / 100
        return cls(text, limits, unclear, against)

    def check(self, tasks: Sequence[str], benchmarks: Sequence[str]) -> None:
        """Refuse names of which nothing will be measured.

        Args:
            tasks: What has been learned so far.
            benchmarks: What the store's versions are measured on besides.

        Raises:
            RecipeError: Naming one.
        """
        for name in self.limits:
            if name == EVERY or name in tasks or name in benchmarks:
                continue
            if name in ABILITIES:
                raise RecipeError(
                    f"must_keep: this store does not measure '{name}'; make it with --set "
                    f"base_ability.tasks=[{name}], and --set base_ability.data=FOLDER where its rows are local."
                )
            raise RecipeError(
                f"must_keep: '{shown_text(name)}' is not a task that this store has learned. "
                f"{nearest(name, [*tasks, *benchmarks])}"
            )

    def limit(self, name: str) -> float | None:
        """How much of a score may be lost, a fraction; None where nothing is said of it."""
        return self.limits.get(name, self.limits.get(EVERY))


@dataclass(frozen=True)
class Requirement:
    """One score that must be kept.

    Attributes:
        name: The task's or the benchmark's.
        kind: Which of them it is.
        may_lose: How much of it may be lost, a fraction.
        against: The version that it is compared with.
    """

    name: str
    kind: Literal["task", "benchmark"]
    may_lose: float
    against: str

    def judged_task(self, before: Lines | None, after: Lines | None, task: Task | None, seed: int) -> Judgment:
        """Judge a task.

        Args:
            before: What the version to compare with predicted of its test rows; None where it was not measured.
            after: The same of the new version.
            task: With its test rows; None where nobody was measured.
            seed: Of the bootstrap.
        """
        if not before or not after or task is None or len(before) != len(after):
            return self._said(None, None, 0)
        if "tokens" in after[0]:
            share = len(after) / sum(line["tokens"] for line in after)  # a mean over chunks is the share of all tokens
            old, new = ([share * line["right"] for line in lines] for lines in (before, after))
        elif all("score" in line for line in (*before, *after)) or task.metric == "exact_match":
            old, new = ([float(line.get("score", line["right"])) for line in lines] for lines in (before, after))
        else:
            return self._scored_anew(before, after, task, seed)
        return self._by_rows(old, new, seed)

    def judged_benchmark(self, before: AbilityScore, after: AbilityScore, seed: int) -> Judgment:
        """Judge a benchmark by the metric that goes into averages.

        Args:
            before: Of the version to compare with.
            after: Of the new version.
            seed: Of the bootstrap.
        """
        old, new = ([float(right) for right in one.right[one.headline]] for one in (before, after))
        return self._by_rows(old, new, seed)

    def _by_rows(self, before: Sequence[float], after: Sequence[float], seed: int) -> Judgment:
        old, new = np.array(before), np.array(after)
        interval = over_rows([new - old], seed=derive(seed, "gate", self.name), samples=SAMPLES)
        return self._said((float(old.mean()), float(new.mean())), interval, len(new))

    def _scored_anew(self, before: Lines, after: Lines, task: Task, seed: int) -> Judgment:
        """Each draw of rows is scored by the task's metric."""
        answers = [[str(line["answer"]) for line in lines] for lines in (before, after)]

        def values(rows: Sequence[int]) -> tuple[float, float]:
            drawn = replace(task, test=tuple(task.test[row] for row in rows))
            first, second = (score(drawn, [own[row] for row in rows]).value for own in answers)
            return first, second

        rng = np.random.default_rng(derive(seed, "gate", self.name))
        draws = (values(rng.integers(len(after), size=len(after)).tolist()) for _ in range(SCORED_SAMPLES))
        changes = [second - first for first, second in draws]
        low, high = np.quantile(changes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return self._said(values(range(len(after))), Interval(float(low), float(high)), len(after))

    def _said(self, values: tuple[float, float] | None, interval: Interval | None, rows: int) -> Judgment:
        """values: before and after."""
        kept: Kept = "unclear"
        if interval is None:
            kept = "not measured"
        elif interval.low >= -self.may_lose - NOTHING:
            kept = "kept"
        elif interval.high < -self.may_lose - NOTHING:
            kept = "lost"
        before, after = values or (None, None)
        return Judgment(
            name=self.name,
            kind=self.kind,
            may_lose=self.may_lose,
            against=self.against,
            before=before,
            after=after,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            rows=rows,
            kept=kept,
        )
