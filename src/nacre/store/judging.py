"""A gate asked of a version: from what it and an earlier one predicted, nothing is answered again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from nacre.evaluation.uncertainty import LEVEL
from nacre.records.gate_verdict import Against, GateVerdict, Judgment
from nacre.records.predictions import read_predictions
from nacre.store.gate import SAMPLES, MustKeep, Requirement
from nacre.store.rows import test_rows_of
from nacre.store.store import Store
from nacre.store.version import LearnedTask, Version

SEED = 0
"""Of the bootstrap: the same versions get the same verdict."""

Named = tuple[str, Version]
"""A version with its name."""


def judge(store: Store, before: str, name: str, gate: MustKeep) -> GateVerdict:
    """What a gate says of a version, from what it and an earlier one predicted.

    Args:
        store: Where.
        before: The version that the new one was made of.
        name: The new one.
        gate: What must be kept.
    """
    new, past = store.peek(name), _past(store, before, gate.against)
    judgments: list[Judgment] = []
    for entry in new.tasks:
        if (limit := gate.limit(entry.name)) is None or (against := _of_task(past, entry)) is None:
            continue
        lines = [_lines(store, each, entry.name) for each in (against, (name, new))]
        task = test_rows_of(store, entry) if None not in lines else None
        requirement = Requirement(entry.name, "task", limit, against[0])
        judgments.append(requirement.judged_task(lines[0], lines[1], task, SEED))
    old = past[-1]
    earlier = {score.task: score for score in old[1].ability}
    for score in new.ability:
        if (limit := gate.limit(score.task)) is not None:
            requirement = Requirement(score.task, "benchmark", limit, old[0])
            judgments.append(requirement.judged_benchmark(earlier[score.task], score, SEED))
    return GateVerdict(
        version=name,
        before=before,
        task=new.task or "",
        must_keep=gate.text,
        unclear=gate.unclear,
        passed=all(judgment.passes(gate.unclear) for judgment in judgments),
        judgments=judgments,
        level=LEVEL,
        samples=SAMPLES,
        seed=SEED,
    )


def _past(store: Store, name: str, against: Against) -> list[Named]:
    """A version, and where earlier ones count, the one that it was made of, and so on to the store's first one."""
    found: list[Named] = []
    here: str | None = name
    while here is not None:
        version = store.peek(here)
        found.append((here, version))
        here = version.parent if against == "learned" else None
    return found


def _of_task(past: Sequence[Named], entry: LearnedTask) -> Named | None:
    """The earliest of these versions that has learned a task, without a gap; None where the task is new."""
    knew = list(takewhile(lambda each: _knows(each[1], entry), past))
    return knew[-1] if knew else None


def _knows(version: Version, entry: LearnedTask) -> bool:
    """Whether a version has learned a task, and the same one."""
    known = version.learned(entry.name)
    return known is not None and known.content == entry.content


def _lines(store: Store, of: Named, task: str) -> list[dict[str, Any]] | None:
    name, version = of
    if task not in version.measured:
        return None
    return read_predictions(store.folder(name), version.measured.index(task) + 1, task)
