"""Prompts of no task of a stream: which rows they are, and that none is one that a learner is taught."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from helpers.tiny import tiny_host
from nacre.errors import DataError
from nacre.learning.learner import Learner
from nacre.methods.seq_lora import seq_lora
from nacre.tasks.reading.foreign import FOREIGN, foreign_rows
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

SIZES = (9, 9, 9, 9, 9, 3)
"""Test rows of each source."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for (folder, name), size in zip(FOREIGN, SIZES, strict=True):
        place = tmp_path / folder / name
        place.mkdir(parents=True)
        for split, rows in (("train", 12), ("test", size)):
            lines = [{"input": f"the {folder} {split} {number} of {name}", "output": "a dog"} for number in range(rows)]
            (place / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (place / "task.json").write_text(json.dumps({"definition": [f"Do {name}."]} if folder == "superni" else {}))
    return tmp_path


def test_every_source_gives_as_many_as_it_can(data: Path) -> None:
    counts = Counter(example.task for example in foreign_rows(data, 38))
    assert [counts[name] for _, name in FOREIGN] == [7, 7, 7, 7, 7, 3]


def test_they_are_test_rows_asked_as_their_tasks_ask_them(data: Path) -> None:
    found = foreign_rows(data, sum(SIZES))
    expected = [
        example for folder, name in FOREIGN for example in load_tasks([name], data / folder)[0].examples("test")
    ]
    assert len(found) == len(expected)
    assert {(each.task, each.input, each.target) for each in found} == {
        (each.task, each.input, each.target) for each in expected
    }
    assert (
        found[0].before
        == "Definition: Do task1290_xsum_summarization.\n\nNow complete the following example -\nInput: "
    )


def test_fewer_are_the_first_ones_whatever_the_order_of_lines(data: Path) -> None:
    found = foreign_rows(data, 30)
    assert foreign_rows(data, 11) == found[:11]
    assert len({example.task for example in found[:6]}) == 6
    file = data / "trace" / "ScienceQA" / "test.jsonl"
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    assert foreign_rows(data, 30) == found


def test_nothing_that_is_taught_is_foreign(data: Path) -> None:
    whole, (_, code) = load_tasks(["ScienceQA"], data / "trace")[0], FOREIGN[-1]
    taught = tuple(Row(f"The  instruction train {number} of {code}", "x") for number in range(3))
    texts = Task("mine", (), taught, (Row(f"the Instruction test 1, of {code}", "x"),), Template())
    found = foreign_rows(data, 38, known=[whole, texts])
    counts = Counter(example.task for example in found)
    assert "ScienceQA" not in counts
    assert counts[code] == 2
    assert f"the instruction test 1 of {code}" not in {example.text for example in found}


def test_a_text_that_comes_twice_is_one_row(data: Path) -> None:
    file = data / "trace" / "ScienceQA" / "test.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    assert len(foreign_rows(data, sum(SIZES))) == sum(SIZES)


def test_too_many_and_none_are_refused(data: Path) -> None:
    with pytest.raises(DataError) as caught:
        foreign_rows(data, 49)
    assert str(caught.value) == f"There are 48 foreign rows below {data}, and 49 are asked for."
    with pytest.raises(DataError, match=r"^At least one foreign row must be asked for, not 0\.$"):
        foreign_rows(data, 0)
    with pytest.raises(DataError, match=r"superni.* does not exist"):
        foreign_rows(data / "superni", 5)


def test_a_learner_answers_them_as_prompts(data: Path) -> None:
    prompts = [example.input for example in foreign_rows(data, 7)]
    learner = Learner(tiny_host("t5"), seq_lora())
    assert len(learner.predict(prompts)) == 7
