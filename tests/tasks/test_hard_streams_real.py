"""Hard streams and foreign rows of the real rows, where they are at hand: the numbers of docs/hard_streams.md."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from nacre.evaluation.scoring import normalize
from nacre.tasks.checking.findings import check_stream
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.foreign import foreign_rows
from nacre.tasks.reading.stream_file import load_stream
from nacre.tasks.task import SPLITS, Task

pytestmark = pytest.mark.skipif(
    "NACRE_DATA" not in os.environ, reason="NACRE_DATA does not name the folder with the benchmark data"
)

HARD = "text_only reworded conflict conflict_text_only split_classes split_classes_28 drift fifty".split()


def loaded(stream: str) -> list[Task]:
    return load_stream(stream, str(Path(os.environ["NACRE_DATA"]) / "long_sequence"))


@pytest.mark.parametrize("name", HARD)
def test_no_test_row_is_trained_on(name: str) -> None:
    tasks = loaded(name)
    assert [task.name for task in tasks] == list(get_stream(name).tasks)
    assert [found["sentence"] for found in check_stream(tasks, normalize)["findings"] if found["kind"] == "leak"] == []


def test_articles_of_conflict() -> None:
    _, topic, _, agency, _ = loaded("conflict")
    assert [len(topic.rows(split)) for split in SPLITS] == [642, 72, 264]
    assert Counter(row.target for row in agency.test) == {"Reuters": 88, "AP": 88, "None": 88}
    assert Counter(row.target for row in topic.test) == {
        "World": 126,
        "Sports": 60,
        "Science or Technology": 66,
        "Business": 12,
    }


def test_rewordings_are_used_alike() -> None:
    for task in loaded("reworded"):
        counts = Counter(example.before for example in task.examples("test"))
        assert len(counts) == 5
        assert all(250 <= count <= 350 for count in counts.values())


def test_rows_of_fifty() -> None:
    tasks = loaded("fifty")
    texts = Counter(" ".join(row.text.split()) for task in tasks for row in (*task.train, *task.validation, *task.test))
    twice = [text for text, count in texts.items() if count > 1]
    assert len(twice) == 2  # both inside RTE's training rows
    assert min(len(task.train) for task in tasks) == 200
    assert min(len(task.test) for task in tasks) == 56


def test_five_hundred_foreign_rows() -> None:
    known = [*loaded("fifty"), *loaded("order4")]
    found = foreign_rows(os.environ["NACRE_DATA"], 500, known=known)
    assert len({example.input for example in found}) == 500
    assert sorted(Counter(example.task for example in found).values()) == [83, 83, 83, 83, 84, 84]
