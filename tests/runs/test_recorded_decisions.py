"""What was decided stands in the record of a run, measured once, whenever the run was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny import tiny_task, write_task, write_tiny_model
from nacre.errors import CheckpointError
from nacre.events import EvaluationStarted, Event, RowMeasured, ignore
from nacre.files import hash_of, to_json
from nacre.learning.settings import Optim
from nacre.records.reading import read_record
from nacre.records.run import RECORD_HASH
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

NAMES = ("animals", "plants", "tools")


def recipe(method: str, folder: Path, output: str, **changes: Any) -> Recipe:
    if not (folder / "data").exists():
        for name in NAMES:
            write_task(folder / "data", name, rows=8)
        free = folder / "data" / "free"
        free.mkdir()
        for split in ("train", "validation", "test"):
            rows = [{"prompt": row.text, "answer": f"big {row.target}"} for row in tiny_task("free", 8).rows(split)]  # type: ignore[arg-type]
            (free / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (free / "task.json").write_text(json.dumps({"instruction": "Is it an animal ?"}))
        write_tiny_model("t5", folder / "model")
    fields: dict[str, Any] = {
        "method": method,
        "stream": list(NAMES),
        "data": str(folder / "data"),
        "model": str(folder / "model"),
        "output": str(folder / output),
        "optim": Optim(learning_rate=0.03, batch_size=4),
    }
    return Recipe(**{**fields, **changes})


def before_the_last_row(event: Event) -> bool:
    return isinstance(event, EvaluationStarted) and event.row == len(NAMES)


def behind_it(event: Event) -> bool:
    return isinstance(event, RowMeasured) and event.number == len(NAMES)


@pytest.mark.parametrize("method", ["nacre", "epi"])
def test_a_stopped_run_has_the_same_decisions(method: str, tmp_path: Path) -> None:
    record = run(recipe(method, tmp_path, "whole"), ignore)
    assert record.decisions is not None
    assert record.decisions.rows == [6, 6, 6]
    assert (record.decisions.calibration is not None) == (record.decisions.map is not None) == (method == "nacre")
    rows = [json.loads(file.read_text()) for file in sorted((tmp_path / "whole" / "tasks").glob("*/row.json"))]
    assert [row["decisions"] is None for row in rows] == [True, True, True, False]
    for name, when in (("before", before_the_last_row), ("behind", behind_it)):

        def stop(event: Event, when: Callable[[Event], bool] = when) -> None:
            if when(event):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(recipe(method, tmp_path, name), stop)
        assert run(recipe(method, tmp_path, name), ignore).decisions == record.decisions
        assert read_record(tmp_path / name / "results.json").decisions == record.decisions


@pytest.mark.parametrize("method", ["inc_lora", "independent", "joint"])
def test_who_decides_nothing_has_a_record_without(method: str, tmp_path: Path) -> None:
    record = run(recipe(method, tmp_path, "run"), ignore)
    assert record.decisions is None
    file = tmp_path / "run" / "results.json"
    document = json.loads(file.read_text())
    assert document.pop("decisions", 0) is None
    del document[RECORD_HASH]  # a record from before it was kept is read as it is
    file.write_text(to_json({**document, RECORD_HASH: hash_of(document)}))
    assert read_record(file) == record


def test_tasks_without_labels_are_left_out_but_rows_may_be_taken_for_them(tmp_path: Path) -> None:
    stream = ["animals", "free", "tools"]
    record = run(recipe("inc_lora+gaussian_routing", tmp_path, "run", stream=stream), ignore)
    assert record.decisions is not None
    assert record.decisions.tasks == ["animals", "tools"]
    assert record.decisions.taken_for == stream
    assert record.decisions.map is not None
    assert {point.task for point in record.decisions.map.points} == {"animals", "tools"}
    alone = run(recipe("inc_lora+gaussian_routing", tmp_path, "alone", stream=["free"]), ignore)
    assert alone.decisions is None


def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    run(recipe("nacre", tmp_path, "run"), ignore)
    file = tmp_path / "run" / "results.json"
    text = file.read_text()

    def changed(change: Callable[[dict[str, Any]], None], problem: str) -> None:
        document = json.loads(text)
        del document[RECORD_HASH]
        change(document["decisions"])
        file.write_text(to_json({**document, RECORD_HASH: hash_of(document)}))
        with pytest.raises(CheckpointError, match=problem):
            read_record(file)

    def add(document: dict[str, Any], *path: Any) -> None:
        *before, last = path
        for key in before:
            document = document[key]
        document[last] += 1

    full = next(
        number for number, own in enumerate(json.loads(text)["decisions"]["calibration"]["bins"]) if own["rows"]
    )
    changed(lambda own: own["counts"].pop(), "decisions.counts: 3 rows of 4 counts are expected")
    changed(lambda own: own["tasks"].__setitem__(0, "other"), "decisions.tasks: other tasks than the record's")
    changed(lambda own: own["taken_for"].__setitem__(0, "tools"), "decisions.tasks: a task without rows, or one that")
    changed(lambda own: own.__setitem__("right", 0.123), "decisions.right: 0.123, and the counts give")
    changed(lambda own: add(own, "counts", 0, 3), "decisions")
    changed(lambda own: add(own, "kinds", 0, "foreign"), "decisions.kinds: other numbers of rows")
    changed(lambda own: add(own, "calibration", "left_out"), "decisions.calibration: another number of rows")
    changed(lambda own: own["calibration"].__setitem__("expected_error", 0.999), "expected_error: 0.999, and the bins")
    changed(lambda own: own["calibration"]["bins"].pop(), "calibration.bins: 9 bins, and 10 are expected")
    bins = f"calibration.bins.{full}"
    changed(lambda own: own["calibration"]["bins"][full].__setitem__("right", None), f"{bins}: .* rows without a mean")
    wrong = 0.0 if full else 1.0
    changed(
        lambda own: own["calibration"]["bins"][full].__setitem__("probability", wrong), f"{bins}: a mean of .* not lie"
    )
    changed(lambda own: own["calibration"]["bins"][full].__setitem__("right", 0.01234), f"{bins}: .* not a number")
    changed(lambda own: own["map"]["points"][0].__setitem__("task", "other"), "decisions.map: a task that no row")
    changed(lambda own: own["map"]["points"][0].__setitem__("x", 99.0), "decisions: row 3 is")
