"""What a run came to, in one sentence that stands at the head of its page and at the end of its output."""

from __future__ import annotations

from collections.abc import Sequence

from nacre.records.run import RunRecord
from nacre.report import numbers


def outcome(record: RunRecord) -> str:
    """The average at the end, and what was forgotten on the way there.

    Args:
        record: The run's.
    """
    return f"{record.method} {_reached(record)}{_forgot(record)}"


def leader(records: Sequence[RunRecord]) -> str:
    """Which of several comparable runs has the highest average, and which the lowest.

    Args:
        records: Of one protocol.

    Returns:
        A sentence; empty where fewer than two have an average, or all have the same.
    """
    known = [(record.average_accuracy, record.method) for record in records if record.average_accuracy is not None]
    if len({average for average, _ in known}) < 2:
        return ""
    (best, first), (worst, last) = max(known), min(known)
    return (
        f"{first} has the highest average at the end, {numbers.percent(best)} %, and {last} the lowest, "
        f"{numbers.percent(worst)} %."
    )


def _reached(record: RunRecord) -> str:
    if record.average_accuracy is None:
        return "has no average, because not every task was measured at the end"
    tasks = f"{len(record.tasks)} tasks" if len(record.tasks) > 1 else "its one task"
    return f"ends with an average of {numbers.percent(record.average_accuracy)} % over {tasks}"


def _forgot(record: RunRecord) -> str:
    learned = [record.matrix[number + 1][number] for number in range(len(record.tasks))]
    falls = [
        (before - after, task, before, after)
        for task, before, after in zip(record.tasks, learned, record.matrix[-1], strict=True)
        if before is not None and after is not None
    ]
    if len(record.tasks) == 1:
        return "."
    if record.forgetting is None or not falls:
        at_once = record.seconds.train[0] is None
        return (
            "; it saw all tasks at once, so it has nothing to forget." if at_once else "; forgetting was not measured."
        )
    fall, task, before, after = max(falls)
    if fall <= 0:
        return " and forgot nothing: no task is worse at the end than when it was learned."
    fell = f"'{task}', which fell from {numbers.percent(before)} to {numbers.percent(after)} %."
    if record.forgetting <= 0:
        return f" and lost nothing on average; it forgot most of {fell}"
    return f" and forgot {numbers.percent(record.forgetting)} points on average; most of {fell}"
