"""What is reported of written rows stands in the run's record, beside the task that they were written for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny import write_task, write_tiny_model
from nacre.errors import CheckpointError
from nacre.events import EvaluationStarted, Event, ignore
from nacre.files import hash_of, to_json
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.records.reading import read_record
from nacre.records.run import RECORD_HASH
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

NAMES = ("animals", "plants", "tools")
METHODS: dict[str, dict[str, Any]] = {
    "lfpt5": {"prompt_length": 3, "max_length": 16, "draws": 3},
    "sapt_lora": {"fraction": 0.5, "generator_steps": 2, "max_length": 16},
}


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written follows from the seeds; a third of it is no row."""

    def sample(self: Host, rows: Sequence[object], count: int, *, seeds: Sequence[int], **_: object) -> list[list[str]]:
        answers = ("Answer : yes", "Answer : no", "sea")
        return [[f"the {('dog', 'cat', 'cow')[seed // 3 % 3]} {answers[seed % 3]}"] for seed in seeds]

    monkeypatch.setattr(Host, "sample", sample)


def recipe(method: str, folder: Path, output: str) -> Recipe:
    if not (folder / "data").exists():
        for name in NAMES:
            write_task(folder / "data", name, rows=8)
        write_tiny_model("t5", folder / "model")
    return Recipe(
        method=method,
        set=METHODS.get(method, {}),
        stream=list(NAMES),
        data=str(folder / "data"),
        model=str(folder / "model"),
        output=str(folder / output),
        optim=Optim(learning_rate=0.03, batch_size=4),
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_record_has_every_report_and_a_stopped_run_has_the_same(method: str, tmp_path: Path) -> None:
    def stop(event: Event) -> None:  # two tasks are learned, the second one is not measured yet
        if isinstance(event, EvaluationStarted) and event.row == 2:
            raise KeyboardInterrupt

    record = run(recipe(method, tmp_path, "whole"), ignore)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "events.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["event"] == "pseudo_rows"]
    keys = ("task", "drawn", "parsed", "duplicates", "kept", "labels")
    assert record.pseudo_rows is not None
    assert [[each.task for each in rows] for rows in record.pseudo_rows] == [[], ["animals"], ["animals", "plants"]]
    found = [each.model_dump() for rows in record.pseudo_rows for each in rows]
    assert found == [{key: line[key] for key in keys} for line in said]
    assert all(0 < each["kept"] <= each["parsed"] < each["drawn"] for each in found)
    assert any(each["duplicates"] for each in found)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(method, tmp_path, "stopped"), stop)
    assert run(recipe(method, tmp_path, "stopped"), ignore).pseudo_rows == record.pseudo_rows
    assert read_record(tmp_path / "stopped" / "results.json").pseudo_rows == record.pseudo_rows


def test_a_record_that_contradicts_its_stages_is_refused(tmp_path: Path) -> None:
    run(recipe("sapt_lora", tmp_path, "run"), ignore)
    file = tmp_path / "run" / "results.json"
    document = json.loads(file.read_text())
    del document[RECORD_HASH]
    document["pseudo_rows"][2][0]["kept"] += 1
    file.write_text(to_json({**document, RECORD_HASH: hash_of(document)}))
    with pytest.raises(CheckpointError, match="pseudo_rows: row 3 is"):
        read_record(file)
    document["pseudo_rows"].pop()
    file.write_text(to_json({**document, RECORD_HASH: hash_of(document)}))
    with pytest.raises(CheckpointError, match="pseudo_rows: 2 values, and 3 are expected for 3 tasks"):
        read_record(file)


def test_where_nothing_is_written_the_record_says_nothing(tmp_path: Path) -> None:
    assert run(recipe("seq_lora", tmp_path, "run"), ignore).pseudo_rows is None
