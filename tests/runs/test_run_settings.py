"""Settings of a run that decide what is measured and on which rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.tiny import write_task, write_tiny_model
from nacre.events import ignore
from nacre.models.loading import load_host
from nacre.records.run import RunRecord
from nacre.runs.recipe import read_recipe
from nacre.runs.run import run

COLUMNS = range(3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    write_tiny_model("t5", folder / "model")
    for name in ("animals", "birds", "fish"):
        write_task(folder / "data", name)
    return folder


def carried_out(place: Path, name: str, *settings: str) -> RunRecord:
    flags = {
        "method": "seq_lora",
        "stream": ["animals", "birds", "fish"],
        "data": str(place / "data"),
        "model": str(place / "model"),
        "output": str(place / name),
    }
    return run(read_recipe(None, flags, ["optim.learning_rate=0.03", *settings]), ignore)


def defined(record: RunRecord) -> list[list[bool]]:
    return [[score is not None for score in row] for row in record.matrix]


def test_seen_measures_each_task_from_when_it_was_learnt(place: Path) -> None:
    full, seen = carried_out(place, "full"), carried_out(place, "seen", "matrix=seen")
    assert defined(full) == [[True] * 3] * 4
    assert defined(seen) == [[column < row for column in COLUMNS] for row in range(4)]
    for row in range(4):
        for column in range(row):
            assert seen.matrix[row][column] == full.matrix[row][column]
    assert (seen.average_accuracy, seen.forgetting) == (full.average_accuracy, full.forgetting)
    assert full.forward_transfer is not None
    assert seen.forward_transfer is None


def test_last_measures_the_last_row_only(place: Path) -> None:
    last = carried_out(place, "last", "matrix=last")
    assert defined(last) == [[row == 3] * 3 for row in range(4)]
    assert last.average_accuracy == carried_out(place, "full").average_accuracy
    assert last.forgetting is None
    assert last.learning_accuracy is None


def test_the_report_of_a_matrix_with_holes_is_written(place: Path) -> None:
    carried_out(place, "seen", "matrix=seen")
    assert "<html" in (place / "seen" / "report.html").read_text()


def test_independent_copies_keep_their_scores_whatever_is_measured(place: Path) -> None:
    record = carried_out(place, "copies", "method=independent", "matrix=last")
    assert defined(record) == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert [record.matrix[row][0] for row in (1, 2, 3)] == [record.matrix[1][0]] * 3


def test_measuring_on_validation_rows_touches_no_test_row(place: Path) -> None:
    flags = {"method": "seq_lora", "stream": ["animals"], "data": str(place / "data")}
    usual = read_recipe(None, flags, []).tasks()[0]
    chosen = read_recipe(None, flags, ["measure_on=validation"]).tasks()[0]
    assert chosen.test == usual.validation != usual.test
    assert chosen.train == usual.train
    record = carried_out(place, "validation", "measure_on=validation")
    assert record.protocol["measured on"] == "validation"
    assert record.protocol_hash != carried_out(place, "full").protocol_hash


def test_model_dropout_replaces_what_the_configuration_says(place: Path) -> None:
    folder = place / "model"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.3}))
    try:

        def rates(dropout: float | None) -> set[float]:
            model = load_host(str(folder), dropout=dropout).model
            return {module.p for module in model.modules() if type(module).__name__ == "Dropout"}

        assert rates(None) == {0.3}
        assert rates(0.0) == {0.0}
        assert rates(0.2) == {0.2}
    finally:
        (folder / "config.json").write_text(json.dumps(config))


def test_a_folder_called_demo_does_not_hide_the_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_recipe(None, {"method": "seq_lora"}, []).resolved().model == "demo"
