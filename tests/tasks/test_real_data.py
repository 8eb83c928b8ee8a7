"""The long benchmark's real rows, where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nacre.errors import DataError
from nacre.tasks.published.catalog import CATALOG
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.sources import find_tasks, load_tasks
from nacre.tasks.task import SPLITS

pytestmark = pytest.mark.skipif(
    "NACRE_DATA" not in os.environ, reason="NACRE_DATA does not name the folder with the benchmark data"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(os.environ["NACRE_DATA"]) / "long_sequence"


@pytest.fixture(scope="module")
def tasks(folder):
    return load_tasks(get_stream("order4").tasks, folder)


def test_all_fifteen_are_found(folder):
    assert find_tasks(folder) == sorted(task.name for task in CATALOG)


def test_rows_labels_and_hashes_are_those_on_record(folder, tasks):
    assert [task.name for task in tasks] == list(get_stream("order4").tasks)
    for task in tasks:
        card = json.loads((folder / task.name / "task.json").read_text(encoding="utf-8"))
        assert {split: len(task.rows(split)) for split in SPLITS} == card["rows"]
        assert list(task.labels or ()) == card["labels"]
        assert task.template.type_name == card["family"]
        assert task.source["dropped"] == {}
        for split in SPLITS:
            assert task.source["files"][split]["sha256"] == card["files"][f"{split}.jsonl.gz"]["sha256"]


def test_label_sets_are_the_catalogs(tasks):
    labels = {task.name: task.labels for task in CATALOG}
    assert {task.name: task.labels for task in tasks} == labels


def test_too_high_a_folder_says_where_to_go(folder):
    with pytest.raises(DataError, match=r"Task 'cb' is not in .* one level deeper: pass .*long_sequence"):
        load_tasks(["cb"], folder.parent)
