"""Which task each test row was taken for, and how sure the answer to it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from nacre.functional.segments import NONE
from nacre.learning.answers import Answering, in_row_order, open_labels
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.parts.decision import Decision, RowKind
from nacre.parts.part import Readout
from nacre.parts.slots_of_tasks import tasks_of_slots
from nacre.tasks.task import Task


@dataclass(frozen=True)
class RowDecision:
    """What was decided of a row.

    Attributes:
        by: Who decided.
        task: The task that it was taken for; None: no task, the bare host answers.
        kind: Whether it is of a task that was learned (`parts.decision`); None where nobody asked.
        probability: Of its answer; None where nobody knows.
    """

    by: Literal["readout", "routing"]
    task: str | None
    kind: RowKind | None = None
    probability: float | None = None


@torch.no_grad()
def decided(learner: Answering, tasks: Sequence[Task]) -> list[list[RowDecision]] | None:
    """What the readout decides of test rows; where it decides nothing, which slot the routing gives the most weight.

    Args:
        learner: Answers as it does when it is scored.
        tasks: Tasks with labels.

    Returns:
        Of each task, in row order; None where nobody decides, or each row's task is given.
    """
    if not learner.state.tasks:
        return None
    found: list[list[RowDecision]] = []
    for task in tasks:
        rows = learner.encode(task.examples("test"))
        own = _by_readout(learner, rows, task) or _by_routing(learner, rows)
        if own is None:
            return None
        found.append(own)
    return found


def _by_readout(learner: Answering, rows: Sequence[Encoded], task: Task) -> list[RowDecision] | None:
    readout = learner.method.readout
    if readout is None:
        return None
    return in_row_order(learner, rows, partial(_read_out, learner, readout, open_labels(learner, task)))


def _read_out(
    learner: Answering, readout: Readout, labels: Sequence[str] | None, rows: Sequence[Encoded]
) -> list[RowDecision] | None:
    decisions = readout.decide(learner, rows, labels)
    return None if decisions is None else [_of(decision, readout.abstains) for decision in decisions]


def _of(decision: Decision, asked: bool) -> RowDecision:
    return RowDecision(
        "readout",
        task=decision.task,
        kind=decision.kind if asked else None,
        probability=decision.labels.get(decision.answer),
    )


def _by_routing(learner: Answering, rows: Sequence[Encoded]) -> list[RowDecision] | None:
    router = learner.router
    if router is None or not router.routing.infers_task(learner.method.adapter):
        return None
    of_slots = tasks_of_slots(learner)
    if any(len(names) > 1 for names in of_slots):
        return None  # tasks that were learned at once share a slot

    def chosen(prompts: Batch, _: Sequence[int]) -> list[int]:
        return router.chosen_slots(prompts, len(of_slots))[1]

    def read(batch: Sequence[Encoded]) -> list[RowDecision]:
        slots = learner.host.read(batch, chosen)
        return [RowDecision("routing", None if slot == NONE else of_slots[slot][0]) for slot in slots]

    return in_row_order(learner, rows, read)
