"""What a learner decided at the end of its run: whose each test row was, how sure its answer, and where labels lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nacre.records.fields import Finite, Number, Share

BINS = 10
"""Of probabilities, all of one width."""


class KindCounts(BaseModel):
    """How many of a task's test rows were of which kind (`nacre.parts.decision`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known: Number
    reworded: Number
    foreign: Number

    @property
    def rows(self) -> int:
        """All of them."""
        return self.known + self.reworded + self.foreign


class ProbabilityBin(BaseModel):
    """The rows whose answers had a probability from b / 10 to (b + 1) / 10, b the bin's number.

    Attributes:
        rows: How many.
        probability: Their mean probability; None without rows.
        right: The share of them whose answer was right; None without rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Number
    probability: Share | None
    right: Share | None


class Reliability(BaseModel):
    """How the answers' probabilities fit the share of them that were right.

    Attributes:
        bins: Ten, from 0 to 1; 1 belongs to the last.
        left_out: Rows whose answer had no probability, such as foreign ones.
        expected_error: Over the bins, the mean distance of `right` from `probability`, weighted by rows; None without
            rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bins: list[ProbabilityBin]
    left_out: Number
    expected_error: Share | None

    @property
    def rows(self) -> int:
        """Rows that had a probability."""
        return sum(own.rows for own in self.bins)

    @classmethod
    def of(cls, probabilities: Sequence[float | None], right: Sequence[bool]) -> Reliability | None:
        """Sort rows into bins.

        Args:
            probabilities: Of each row's answer; None where it has none.
            right: Whether each answer was right.

        Returns:
            None where no answer has a probability.
        """
        known = [(own, good) for own, good in zip(probabilities, right, strict=True) if own is not None]
        if not known:
            return None
        by_bin: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
        for own, good in known:
            by_bin[min(int(own * BINS), BINS - 1)].append((own, good))
        bins = [
            ProbabilityBin(
                rows=len(rows),
                probability=math.fsum(own for own, _ in rows) / len(rows) if rows else None,
                right=sum(good for _, good in rows) / len(rows) if rows else None,
            )
            for rows in by_bin
        ]
        return cls(bins=bins, left_out=len(probabilities) - len(known), expected_error=_expected_error(bins))

    def problems(self) -> Iterator[str]:
        """What cannot be true, in phrases that begin with the culprit's key."""
        if len(self.bins) != BINS:
            yield f"calibration.bins: {len(self.bins)} bins, and {BINS} are expected"
        for number, own in enumerate(self.bins):
            where = f"calibration.bins.{number}"
            if own.rows and (own.probability is None or own.right is None):
                yield f"{where}: {own.rows} rows without a mean"
            elif own.probability is not None and not number - 1e-6 <= BINS * own.probability <= number + 1 + 1e-6:
                yield f"{where}: a mean of {own.probability:g} does not lie in it"
            elif own.right is not None and abs(own.right * own.rows - round(own.right * own.rows)) > 1e-6:
                yield f"{where}: {own.right:g} of {own.rows} rows is not a number of rows"
        expected = _expected_error(self.bins)
        if not _same(self.expected_error, expected):
            yield f"calibration.expected_error: {self.expected_error}, and the bins give {expected}"


class MapPoint(BaseModel):
    """The mean of a label's rows in the plane that tells labels apart best.

    Attributes:
        task: A task.
        label: One of its labels.
        x: Along the first axis; one unit is a standard deviation inside a label, as the method sees it.
        y: Along the second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    label: str
    x: Finite
    y: Finite


class TaskMap(BaseModel):
    """Where the tasks' labels lie.

    Attributes:
        points: One for each label of each task.
        shown: Of the labels' squared distances from their mean, the share that the plane shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    points: list[MapPoint]
    shown: Share


class Decisions(BaseModel):
    """Of the tasks with labels, what was decided of their test rows after the last task.

    Attributes:
        by: Who decided: the method's readout, or its routing.
        tasks: The rows' tasks.
        taken_for: The tasks that they could be taken for.
        counts: Of each task, how many of its rows were taken for which; last, for none.
        right: The share of all rows that were taken for their own task.
        kinds: Of each task; null where the method takes no row for foreign, or does not say.
        calibration: Null where answers have no probability.
        map: Null where no part knows where labels lie, or there is one label only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["readout", "routing"]
    tasks: list[str]
    taken_for: list[str]
    counts: list[list[Number]]
    right: Share
    kinds: list[KindCounts] | None = None
    calibration: Reliability | None = None
    map: TaskMap | None = None

    @property
    def rows(self) -> list[int]:
        """How many test rows each task has."""
        return [sum(row) for row in self.counts]

    def problems(self) -> Iterator[str]:
        """What cannot be true, in phrases that begin with the culprit's key."""
        width = len(self.taken_for) + 1
        if [len(row) for row in self.counts] != [width] * len(self.tasks):
            yield f"decisions.counts: {len(self.tasks)} rows of {width} counts are expected"
            return
        if not set(self.tasks) <= set(self.taken_for) or not all(self.rows):
            yield "decisions.tasks: a task without rows, or one that no row can be taken for"
            return
        if not _same(self.right, expected := share_right(self.tasks, self.taken_for, self.counts)):
            yield f"decisions.right: {self.right}, and the counts give {expected}"
        if self.kinds is not None and [own.rows for own in self.kinds] != self.rows:
            yield "decisions.kinds: other numbers of rows than the counts'"
        if self.calibration is not None:
            yield from (f"decisions.{problem}" for problem in self.calibration.problems())
            if self.calibration.rows + self.calibration.left_out != sum(self.rows):
                yield "decisions.calibration: another number of rows than the counts'"
        if self.map is not None and not {own.task for own in self.map.points} <= set(self.taken_for):
            yield "decisions.map: a task that no row can be taken for"


def share_right(tasks: Sequence[str], taken_for: Sequence[str], counts: Sequence[Sequence[int]]) -> float:
    """The share of all rows that were taken for their own task.

    Args:
        tasks: See `Decisions`.
        taken_for: Likewise.
        counts: Likewise.
    """
    right = sum(row[taken_for.index(task)] for task, row in zip(tasks, counts, strict=True))
    return right / sum(map(sum, counts))


def _expected_error(bins: Sequence[ProbabilityBin]) -> float | None:
    rows = sum(own.rows for own in bins)
    off = [own.rows * abs((own.right or 0.0) - (own.probability or 0.0)) for own in bins]
    return math.fsum(off) / rows if rows else None


def _same(left: float | None, right: float | None) -> bool:
    """But for rounding, which versions of Python may do differently."""
    return left is right is None or (left is not None and right is not None and math.isclose(left, right, abs_tol=1e-9))
