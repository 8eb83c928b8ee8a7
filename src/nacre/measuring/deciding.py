"""What a learner decided of a stream's test rows, counted."""

from __future__ import annotations

from collections.abc import Sequence

from nacre.evaluation.scoring import TaskScore
from nacre.functional.principal_plane import principal_plane
from nacre.learning.decided import RowDecision
from nacre.learning.learner import Learner
from nacre.records.decisions import Decisions, KindCounts, MapPoint, Reliability, TaskMap, share_right
from nacre.tasks.task import Task


def decisions_of(learner: Learner, scored: Sequence[tuple[Task, TaskScore]]) -> Decisions | None:
    """Count what was decided of the test rows of the tasks that have labels.

    Args:
        learner: That has learned the stream.
        scored: Tasks with the scores of its answers.

    Returns:
        None where the learner decides nothing, or no task has labels.
    """
    labeled = [(task, score) for task, score in scored if task.labels]
    found = learner.decided([task for task, _ in labeled]) if labeled else None
    if found is None:
        return None
    tasks, learned = [task.name for task, _ in labeled], list(dict.fromkeys(learner.state.tasks))
    counts = [[sum(row.task == name for row in rows) for name in (*learned, None)] for rows in found]
    every = [row for rows in found for row in rows]
    return Decisions(
        by=every[0].by,
        tasks=tasks,
        taken_for=learned,
        counts=counts,
        right=share_right(tasks, learned, counts),
        kinds=None if any(row.kind is None for row in every) else [_kinds(rows) for rows in found],
        calibration=Reliability.of(
            [row.probability for row in every], [right for _, score in labeled for right in score.right]
        ),
        map=_map(learner),
    )


def _kinds(rows: Sequence[RowDecision]) -> KindCounts:
    kinds = [row.kind for row in rows]
    return KindCounts(known=kinds.count("known"), reworded=kinds.count("reworded"), foreign=kinds.count("foreign"))


def _map(learner: Learner) -> TaskMap | None:
    known = next((own for part in learner.method.parts if (own := part.landmarks(learner)) is not None), None)
    if known is None or len(known.pairs) < 2:
        return None
    positions, shown = principal_plane(known.whitened.cpu())
    points = [
        MapPoint(task=task, label=label, x=x, y=y)
        for (task, label), (x, y) in zip(known.pairs, positions.tolist(), strict=True)
    ]
    return TaskMap(points=points, shown=shown)
