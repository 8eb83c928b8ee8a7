"""Runs of closed-form learners: killed between tasks and inside a measurement, resumed as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.outcome import assert_same
from helpers.tiny import write_task
from nacre.events import Event, OnEvent, as_document, ignore, is_kept
from nacre.learning.settings import Optim
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

NAMES = ("animals", "plants", "tools")
SETTINGS: dict[str, dict[str, object]] = {
    "nearest_mean": {},
    "lda": {"unit": "task", "answer": "sum"},
    "ridge": {"dimension": 64},
    "klda": {"dimension": 40},
    "knn": {"per_pair": 3},
}


class Stop(Exception):
    """What stands for a crash inside a run."""


def stop_at(place: dict[str, object]) -> OnEvent:
    def stop(event: Event) -> None:
        if is_kept(event) and place.items() <= as_document(event).items():
            raise Stop

    return stop


@pytest.mark.parametrize("method", SETTINGS)
def test_a_run_that_was_killed_goes_on(
    method: str, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        write_task(tmp_path / "data", name, rows=8)

    def recipe(output: str) -> Recipe:
        return Recipe(
            method=method,
            set=SETTINGS[method],
            stream=list(NAMES),
            data=str(tmp_path / "data"),
            model=str(tiny_model("t5")),
            output=str(tmp_path / output),
            optim=Optim(batch_size=4),
        )

    run(recipe("straight"), ignore)
    for place in ({"event": "row", "number": 1}, {"event": "evaluate", "row": 2}):
        with pytest.raises(Stop):
            run(recipe("stopped"), stop_at(place))
    run(recipe("stopped"), ignore)
    assert_same(tmp_path / "stopped", tmp_path / "straight")
    events = [json.loads(line)["event"] for line in (tmp_path / "straight" / "events.jsonl").read_text().splitlines()]
    assert "step" not in events
    record = json.loads((tmp_path / "straight" / "results.json").read_text())
    assert record["method"] == method
