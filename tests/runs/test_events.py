"""Events: what `events.jsonl` calls them and what its lines hold, which users parse, does not change."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from nacre.events import (
    EVENT_KINDS,
    Event,
    ProbeMeasured,
    ProbeStarted,
    RowsAnswered,
    StepTaken,
    Stopped,
    as_document,
    is_kept,
)

LINES = {
    "run": ["path", "method", "tasks", "seed", "penalties", "gradient_rules"],
    "resumed": ["folder", "tasks"],
    "stage": ["number", "stages", "name"],
    "folded": ["sites", "folded", "obstacles", "ratios"],
    "room": ["site", "factor", "left", "width", "remaining"],
    "start": ["start", "tasks", "losses"],
    "pseudo_rows": ["task", "drawn", "parsed", "duplicates", "kept", "labels"],
    "generator": ["task", "parameters", "step", "steps", "loss"],
    "trainable": ["groups"],
    "rows": ["rows", "truncated", "cut_targets"],
    "step": ["step", "steps", "loss", "terms", "rate"],
    "saved": ["step", "steps", "folder"],
    "continued": ["step", "steps", "folder"],
    "warning": ["text"],
    "evaluate": ["row", "tasks"],
    "row": ["number", "scores", "tasks"],
    "finished": ["path", "already"],
}


def test_every_kind_keeps_its_name_and_keys() -> None:
    assert {kind: [field.name for field in fields(event)] for event, kind in EVENT_KINDS.items()} == LINES


def test_every_event_has_a_name() -> None:
    assert {*EVENT_KINDS, ProbeStarted, ProbeMeasured, RowsAnswered, Stopped} == set(get_args(Event))
    assert not is_kept(RowsAnswered(done=1, rows=2))  # it would be most of the file
    assert not is_kept(Stopped())
    assert is_kept(ProbeStarted("end_task", {}))


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            StepTaken(step=1, steps=2, loss=0.5, terms={"task": 0.5}, rate=0.1),
            {"event": "step", "step": 1, "steps": 2, "loss": 0.5, "terms": {"task": 0.5}, "rate": 0.1},
        ),
        (
            ProbeStarted("end_task", {"after": "ai", "task": "scierc", "seed": 1}),
            {"event": "end_task", "after": "ai", "task": "scierc", "seed": 1},
        ),
        (
            ProbeMeasured("ability_result", {"after": "before", "task": "x", "scores": {"acc": 1.0}}, "a sentence"),
            {"event": "ability_result", "after": "before", "task": "x", "scores": {"acc": 1.0}},
        ),
    ],
)
def test_a_line_holds_the_kind_and_then_the_values(event: Event, line: dict[str, object]) -> None:
    assert as_document(event) == line
    assert list(as_document(event)) == list(line)
