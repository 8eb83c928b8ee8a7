"""Bad rows are named all at once or left out, labels are folded, one file is enough: on request, and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Call, assert_one_line_error
from nacre.errors import DataError
from nacre.tasks.checking.findings import source_findings
from nacre.tasks.reading.choices import Choices
from nacre.tasks.reading.sources import find_raw_task, load_tasks
from nacre.tasks.reading.stream_file import read_stream
from nacre.tasks.task import Task

GOOD = [json.dumps({"text": f"row {number}", "label": "ab"[number % 2]}) for number in range(30)]
BAD = {
    3: ('{"text": null, "label": "a"}', "field 'text' must be a string, not null"),
    7: ('{"text": "x", "label": ""}', "field 'label' is empty"),
    11: ("{", "not valid JSON"),
    19: ('{"text": "x"}', "there is no field 'label'"),
    23: ("[1]", "an object with fields is expected, but this is a list"),
}


def write(
    folder: Path, lines: list[str], name: str = "train.jsonl", test: str = '{"text": "test", "label": "a"}'
) -> Path:
    place = folder / "mine"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("\n".join(lines))
    (place / "test.jsonl").write_text(test)
    return place


def with_bad(numbers: tuple[int, ...] = tuple(BAD)) -> list[str]:
    return [BAD[number][0] if number in numbers else line for number, line in enumerate(GOOD, start=1)]


def load(folder: Path, **choices: Any) -> Task:
    return load_tasks(["mine"], folder, **choices)[0]


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, with_bad())
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    for number, (_, says) in BAD.items():
        assert f"line {number}: {says}" in message
    assert "5 of 30 rows cannot be read" in message
    assert message.endswith("Correct them, or leave them out with --skip-bad-rows.")
    assert "\n" not in message


def test_one_bad_row_is_one_sentence(tmp_path: Path) -> None:
    place = write(tmp_path, with_bad((7,)))
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{place / 'train.jsonl'}, line 7: field 'label' is empty."


def test_of_many_bad_rows_ten_are_named(tmp_path: Path) -> None:
    write(tmp_path, [json.dumps({"text": "x" * 500, "label": ["y" * 500]})] * 5000 + GOOD)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "5,000 of 5,030 rows cannot be read" in str(caught.value)
    assert "line 10: " in str(caught.value)
    assert "line 11: " not in str(caught.value)
    assert "; and 4,990 more." in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_bad_rows_are_left_out_on_request(tmp_path: Path) -> None:
    write(tmp_path, with_bad())
    task = load(tmp_path, skip_bad_rows=True)
    assert len(task.train) + len(task.validation) == 25
    assert task.source["skipped"] == {"train": 5}
    assert {row.place for row in task.train}.isdisjoint({f"train.jsonl, line {number}" for number in BAD})
    assert "train.jsonl, line 30" in {row.place for row in (*task.train, *task.validation)}
    assert [finding.sentence for finding in source_findings(task)] == ["5 rows in train of 'mine' are left out."]
    write(tmp_path / "clean", [line for number, line in enumerate(GOOD, start=1) if number not in BAD])
    clean = load(tmp_path / "clean")
    assert (task.train, task.validation, task.test) == (clean.train, clean.validation, clean.test)


def test_rows_with_an_unknown_label_are_bad_rows(tmp_path: Path) -> None:
    place = write(
        tmp_path, GOOD, test='{"text": "t", "label": "a"}\n{"text": "u", "label": "c"}\n{"text": "v", "label": "d"}'
    )
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert f"{place / 'test.jsonl'}, line 2: label 'c' is not in the label set, which is 'a', 'b'." in str(caught.value)
    assert "line 3: label 'd' is not in the label set" in str(caught.value)
    assert [row.target for row in load(tmp_path, skip_bad_rows=True).test] == ["a"]


def test_none_but_bad_rows_are_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD, test='{"text": "t", "label": "c"}')
    with pytest.raises(DataError, match="label 'c' is not in the label set"):
        load(tmp_path, skip_bad_rows=True)
    write(tmp_path, ["{", "[1]"])
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        load(tmp_path, skip_bad_rows=True)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_rows_of_every_kind_of_file_can_be_left_out(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"row {n}", "label": "" if n == 4 else "ab"[n % 2]} for n in range(30)]
    text = {
        ".json": json.dumps([*rows, 3]),
        ".jsonl": "\n".join(map(json.dumps, [*rows, 3])),
        ".csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows),
    }[ending]
    write(tmp_path, [text], f"train{ending}")
    task = load(tmp_path, skip_bad_rows=True)
    assert len(task.train) + len(task.validation) == 29


def test_conversations_and_texts_can_be_left_out(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    chats = [json.dumps({"messages": [{**turns[0], "content": f"q {n}"}, turns[1]]}) for n in range(20)]
    write(tmp_path / "chat", [*chats, json.dumps({"messages": turns[:1]})], test=json.dumps({"messages": turns}))
    assert load(tmp_path / "chat", skip_bad_rows=True).source["skipped"] == {"train": 1}
    place = write(tmp_path / "text", [*(json.dumps({"text": f"text {n}"}) for n in range(20)), '{"text": 3}'])
    (place / "task.json").write_text('{"kind": "text"}')
    assert load(tmp_path / "text", skip_bad_rows=True).source["skipped"] == {"train": 1}
    with pytest.raises(DataError, match="line 21: field 'text' must be a string, not 3"):
        load(tmp_path / "text")


def test_other_readers_of_rows_refuse_them(tmp_path: Path) -> None:
    write(tmp_path, with_bad((11,)))
    with pytest.raises(DataError, match="line 11: not valid JSON"):
        find_raw_task("mine", tmp_path, alone=True)


# Labels that differ in case or space.

SPELLINGS = ["Billing", "billing ", "billing", "billing", "Refunds", "refunds", "refunds", "  REFUNDS"]


def spelled(folder: Path, **card: Any) -> Path:
    rows = [json.dumps({"text": f"row {n}", "label": SPELLINGS[n % 8]}) for n in range(40)]
    place = write(folder, rows, test='{"text": "test", "label": "BILLING"}')
    if card:
        (place / "task.json").write_text(json.dumps(card))
    return folder


def test_labels_are_folded_on_request(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label 'BILLING' is not in the label set"):
        load(spelled(tmp_path))
    task = load(tmp_path, fold_labels=True)
    assert task.labels == ("billing", "refunds")
    assert {row.target for row in (*task.train, *task.validation, *task.test)} == {"billing", "refunds"}
    assert task.source["folded"] == {"train": 20, "test": 1}


def test_the_label_set_decides_the_spelling(tmp_path: Path) -> None:
    task = load(spelled(tmp_path, labels=["REFUNDS", "Billing"]), fold_labels=True)
    assert task.labels == ("REFUNDS", "Billing")
    assert {row.target for row in task.train} == {"REFUNDS", "Billing"}


def test_other_labels_stay_unknown(tmp_path: Path) -> None:
    write(tmp_path, GOOD, test='{"text": "t", "label": "c"}')
    with pytest.raises(DataError, match="label 'c' is not in the label set"):
        load(tmp_path, fold_labels=True)


def test_free_text_is_not_folded(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"q {n}", "completion": "Yes" if n % 2 else "yes "}) for n in range(20)]
    write(tmp_path, rows, test=json.dumps({"prompt": "q", "completion": "YES"}))
    assert load(tmp_path, fold_labels=True).test[0].target == "YES"


# One file without test rows.


@pytest.mark.parametrize("name", ["tickets.csv", "tickets.jsonl", "tickets/train.csv", "tickets/train.json"])
def test_one_file_is_split(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    rows = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(100)]
    lines = {".csv": ["text,label", *(f"{row['text']},{row['label']}" for row in rows)], ".json": [json.dumps(rows)]}
    file.write_text("\n".join(lines.get(file.suffix, list(map(json.dumps, rows)))))
    task = load_tasks(["tickets"], tmp_path)[0]
    again, other = load_tasks(["tickets"], tmp_path)[0], load_tasks(["tickets"], tmp_path, seed=1)[0]
    texts = [{row.text for row in task.rows(split)} for split in ("train", "validation", "test")]
    assert [len(split) for split in texts] == [81, 9, 10]
    assert len(set.union(*texts)) == 100
    assert {row.target for row in task.test} == {"a", "b"}
    assert (again.test, again.train) == (task.test, task.train)
    assert other.test != task.test
    assert task.source["carved_test"] == {"from": "train", "seed": 0, "rows": 10}
    assert [finding.kind for finding in source_findings(task)] == ["held out"]
    assert (
        "10 of its rows, drawn with seed 0, are the test rows and are not trained on"
        in next(source_findings(task)).sentence
    )


@pytest.mark.parametrize("other", ["tst.jsonl", "test.tsv", "more.csv", "test.jsonl.zst", "mine.txt"])
def test_another_file_might_be_the_test_rows(tmp_path: Path, other: str) -> None:
    place = write(tmp_path, GOOD)
    (place / "test.jsonl").unlink()
    (place / other).write_text("x")
    with pytest.raises(DataError, match=r"there is no test file; put test.jsonl beside train.jsonl"):
        load(tmp_path)


def tables(folder: Path, *names: str) -> Path:
    """Tables of a hundred rows each; returns the first one."""
    for name in names:
        (folder / name).write_text("text,label\n" + "\n".join(f"row {n},{'ab'[n % 2]}" for n in range(100)))
    return folder / names[0]


def test_other_tasks_lie_beside_a_lone_file(tmp_path: Path) -> None:
    file = tables(tmp_path, "tickets.csv", "refunds.csv", "contest.csv", "latest.csv", "tickets2.csv")
    assert len(load_tasks(["tickets"], file)[0].test) == 10
    assert len(load_tasks(["refunds"], tmp_path)[0].test) == 10


@pytest.mark.parametrize("other", ["tickets-held-out.csv", "tickets_2.csv", "test.csv", "my_eval.csv", "Dev.tsv"])
def test_a_file_beside_a_lone_one_might_be_its_test_rows(tmp_path: Path, other: str) -> None:
    file = tables(tmp_path, "tickets.csv", other)
    with pytest.raises(DataError, match=r"there is no test file; put tickets\.test\.csv beside tickets\.csv"):
        load_tasks(["tickets"], file)


# On the command line.


def test_the_command_line_takes_the_choices(nacre: Call, tmp_path: Path) -> None:
    write(tmp_path, [line.replace('"a"', '"A"') if n % 3 else line for n, line in enumerate(with_bad())])
    plain = ("check", tmp_path, "--stream", "mine")
    assert_one_line_error(nacre(*plain), "5 of 30 rows cannot be read", "--skip-bad-rows")
    said = nacre(*plain, "--skip-bad-rows", "--fold-labels")
    assert said.code == 0
    assert "5 rows in train of 'mine' are left out." in said.out
    run = ("run", "--method", "seq_lora", "--data", tmp_path, "--stream", "mine", "--dry-run", "--json")
    assert_one_line_error(nacre(*run), "5 of 30 rows cannot be read")
    plan = json.loads(nacre(*run, "--skip-bad-rows", "--fold-labels").out)
    assert plan["recipe"]["skip_bad_rows"]
    assert plan["recipe"]["fold_labels"]
    assert [stage["name"] for stage in plan["stages"]] == ["mine"]


def test_a_stream_file_takes_the_choices(tmp_path: Path) -> None:
    write(tmp_path, with_bad())
    (tmp_path / "own.yaml").write_text("tasks: [{name: one, train: mine/train.jsonl, test: mine/test.jsonl}]")
    stream = read_stream(tmp_path / "own.yaml")
    with pytest.raises(DataError, match="5 of 30 rows cannot be read"):
        stream.load()
    assert stream.load(Choices(skip_bad_rows=True))[0].source["skipped"] == {"train": 5}
