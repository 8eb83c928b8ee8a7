"""A gate asked of a version: from what it and the version before it predicted, nothing is answered again."""

from __future__ import annotations

from typing import Any

from nacre.evaluation.uncertainty import LEVEL
from nacre.records.gate_verdict import GateVerdict, Judgment
from nacre.records.predictions import read_predictions
from nacre.store.gate import SAMPLES, MustKeep, benchmark_judgment, task_judgment
from nacre.store.rows import test_rows_of
from nacre.store.store import Store
from nacre.store.version import Version

SEED = 0
"""Of the bootstrap: the same versions get the same verdict."""


def judge(store: Store, before: str, name: str, gate: MustKeep) -> GateVerdict:
    """What a gate says of a version, from what it and the one before it predicted.

    Args:
        store: Where.
        before: The version before.
        name: The new one.
        gate: What must be kept.
    """
    old, new = store.read(before), store.read(name)
    judgments: list[Judgment] = []
    for entry in new.tasks:
        limit = gate.limit(entry.name)
        if limit is None or entry.name not in old.names:
            continue
        lines = [_lines(store, each, version, entry.name) for each, version in ((before, old), (name, new))]
        task = test_rows_of(entry, store.folder(name), store.settings.identity) if None not in lines else None
        judgments.append(task_judgment(entry.name, limit, lines[0], lines[1], task, SEED))
    earlier = {score.task: score for score in old.ability}
    for score in new.ability:
        if (limit := gate.limit(score.task)) is not None:
            judgments.append(benchmark_judgment(limit, earlier[score.task], score, SEED))
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


def _lines(store: Store, name: str, version: Version, task: str) -> list[dict[str, Any]] | None:
    if task not in version.measured:
        return None
    return read_predictions(store.folder(name), version.measured.index(task) + 1, task)
