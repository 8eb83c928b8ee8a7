"""What a wrong file, row, name or folder is answered with: the place and what would be right."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import pytest

from nacre.errors import DataError, NacreError
from nacre.tasks.reading.sources import find_tasks, load_tasks

TRAIN = [{"text": f"train {number}", "label": "ab"[number % 2]} for number in range(20)]
TEST = [{"text": "test", "label": "a"}]


def lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def task(tmp_path) -> Path:
    """The folder of a task that is right."""
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(lines(TRAIN))
    (folder / "test.jsonl").write_text(lines(TEST))
    return folder


def refused(data: Path | str | None, *parts: object, names: tuple[str, ...] = ("mine",), kind: type = DataError) -> str:
    """The message, which must hold every part."""
    with pytest.raises(kind) as caught:
        load_tasks(names, data)
    message = str(caught.value)
    for part in parts:
        assert str(part) in message
    assert message.endswith(".")
    return message


def test_the_task_is_right(task):
    assert load_tasks(["mine"], task.parent)[0].labels == ("a", "b")


# Rows: what one bad record in the third line of train says.


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "x", "label": ', "not valid JSON (column 24: Expecting value)"),
        ('{"text": "x", "label": NaN}', "not valid JSON (NaN is not a JSON value)"),
        ('["x", "a"]', "an object with fields is expected, but this is a list"),
        ('"x"', "an object with fields is expected, but this is a string"),
        ('{"text": "x", "lable": "a"}', "there is no field 'label'; the row has 'text', 'lable'"),
        ('{"label": "a"}', "there is no field 'text'; the row has 'label'"),
        ("{}", "there is no field 'text'; the row has none"),
        ('{"text": "x", "label": null}', "field 'label' must be a string or a number, not null"),
        ('{"text": "x", "label": ["a"]}', "field 'label' must be a string or a number, not ['a']"),
        ('{"text": 7, "label": "a"}', "field 'text' must be a string, not 7"),
        ('{"text": " ", "label": "a"}', "field 'text' is empty"),
        ('{"text": "x", "label": ""}', "field 'label' is empty"),
        ('{"text": "\\ud800", "label": "a"}', "field 'text' holds half a character"),
    ],
)
def test_bad_line(task, line, says):
    content = lines(TRAIN).splitlines()
    content[2] = line
    (task / "train.jsonl").write_text("\n".join(content))
    refused(task.parent, f"{task / 'train.jsonl'}, line 3: {says}")


def test_line_numbers_count_blank_lines(task):
    (task / "train.jsonl").write_text("\n\n" + lines(TRAIN[:4]) + "{broken\n")
    refused(task.parent, f"{task / 'train.jsonl'}, line 7: not valid JSON (")


def test_bad_utf8(task):
    (task / "test.jsonl").write_bytes(lines(TEST).encode() + b'{"text": "caf\xe9", "label": "a"}\n')
    refused(task.parent, f"{task / 'test.jsonl'}, line 2: not UTF-8 text (")
    (task / "test.jsonl").unlink()
    (task / "test.csv").write_bytes(b"text,label\ncaf\xe9,a\n")
    refused(task.parent, f"{task / 'test.csv'} is not UTF-8 text (")
    (task / "test.csv").unlink()
    (task / "test.json").write_bytes(b'[{"text": "caf\xe9", "label": "a"}]')
    refused(task.parent, f"{task / 'test.json'} is not UTF-8 text (")


def test_label_outside_the_set(task):
    (task / "test.jsonl").write_text(lines([*TEST, {"text": "t", "label": "c"}]))
    refused(task.parent, f"{task / 'test.jsonl'}, line 2: label 'c' is not in the label set, which is 'a', 'b'.")
    (task / "task.json").write_text('{"labels": ["a", "c"]}')
    refused(task.parent, f"{task / 'train.jsonl'}, line 2: label 'b' is not in the label set, which is 'a', 'c'.")


def test_label_outside_a_published_set(task):
    task.rename(task.with_name("imdb"))
    refused(task.parent, "imdb/train.jsonl, line 1: label 'a'", "'Good', 'Bad'", names=("imdb",))


def test_no_field_pair_at_all(task):
    (task / "train.jsonl").write_text(lines([{"words": "x", "class": "a"}]))
    refused(
        task.parent,
        f"{task / 'train.jsonl'}, line 1: the fields are 'words', 'class'; expected are 'text' and 'label'",
        "or 'prompt' and 'completion'",
    )
    (task / "task.json").write_text('{"fields": {"text": "word", "label": "class"}}')
    refused(task.parent, "expected are 'word' and 'class'")


# Files.


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_split(task, content):
    (task / "test.jsonl").write_text(content)
    refused(task.parent, f"{task / 'test.jsonl'} holds no rows")


def test_empty_json_list_and_csv(task):
    (task / "test.jsonl").unlink()
    (task / "test.json").write_text("[]")
    refused(task.parent, f"{task / 'test.json'} holds no rows")
    (task / "test.json").unlink()
    (task / "test.csv").write_text("text,label\n")
    refused(task.parent, f"{task / 'test.csv'} holds no rows")


def test_no_row_with_a_label(tmp_path):
    for split, label in (("train", "neutral"), ("test", "-")):
        path = tmp_path / "mnli" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines([{"text": "x", "label": label}]))
    refused(tmp_path, "test.jsonl: none of its rows has a label", names=("mnli",))


def test_not_a_gzip(task):
    (task / "test.jsonl").rename(task / "test.jsonl.gz")
    refused(task.parent, f"{task / 'test.jsonl.gz'} is not a gzip file")
    whole = gzip.compress(lines(TRAIN).encode())
    (task / "test.jsonl.gz").write_bytes(whole[:-20])
    refused(task.parent, f"{task / 'test.jsonl.gz'} is a damaged gzip file")
    (task / "test.jsonl.gz").write_bytes(whole[:12] + b"\xff\xff\xff" + whole[15:])
    refused(task.parent, f"{task / 'test.jsonl.gz'} is ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,lable\nx,a\n", ": there is no column 'label'; the columns are 'text', 'lable'"),
        ("text,label\nx,a\nx,a,b\n", ", line 3: 3 values, but the header names 2 columns"),
        ("text,text\nx,a\n", ", line 1: two columns have the same name (text, text)"),
        ('text,label\n"x,a\n', ", line 2: not valid CSV ("),
        ("text,label\nx,\n", ", line 2: field 'label' is empty"),
    ],
)
def test_bad_csv(task, content, says):
    (task / "test.jsonl").unlink()
    (task / "test.csv").write_text(content)
    refused(task.parent, f"{task / 'test.csv'}{says}")


def test_csv_without_any_field_pair(task):
    (task / "train.jsonl").unlink()
    (task / "train.csv").write_text("words,class\nx,a\n")
    refused(task.parent, f"{task / 'train.csv'}: the columns are 'words', 'class'; expected are 'text' and 'label'")


def test_bad_json_list(task):
    (task / "test.jsonl").unlink()
    (task / "test.json").write_text('[\n{"text": "x"\n "label": "a"}]')
    refused(task.parent, f"{task / 'test.json'}, line 3: not valid JSON (")
    (task / "test.json").write_text('{"rows": []}')
    refused(task.parent, f"{task / 'test.json'}: a JSON list of objects is expected, but this is an object")
    (task / "test.json").write_text("[1]")
    refused(task.parent, f"{task / 'test.json'}, row 1: an object with fields is expected, but this is a number")


def test_bad_parquet(task):
    pytest.importorskip("pyarrow")
    (task / "test.jsonl").rename(task / "test.parquet")
    refused(task.parent, f"{task / 'test.parquet'} is not a readable Parquet file (")


def test_parquet_nulls(task):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (task / "test.jsonl").unlink()
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["a", None]}), task / "test.parquet")
    refused(task.parent, f"{task / 'test.parquet'}, row 2: field 'label' must be a string or a number, not null")
    pq.write_table(pa.table({"text": ["x"], "label": [float("nan")]}), task / "test.parquet")
    refused(task.parent, f"{task / 'test.parquet'}, row 1: field 'label' must be a string or a number, not nan")


def test_parquet_without_pyarrow(task, monkeypatch):
    (task / "test.jsonl").rename(task / "test.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(task.parent, "'pyarrow'", "pip install 'nacre[data]'", kind=NacreError)


def test_a_folder_in_place_of_a_file(task):
    (task / "test.jsonl").unlink()
    (task / "test.jsonl").mkdir()
    refused(task.parent, f"{task / 'test.jsonl'} is a folder; a data file is expected there")


def test_missing_splits(task):
    (task / "test.jsonl").rename(task / "tset.jsonl")
    refused(task.parent, f"{task}: there is no test file; put test.jsonl beside train.jsonl")
    (task / "train.jsonl").rename(task / "test.jsonl")
    refused(task.parent, f"{task}: there is no training file; train.jsonl, .jsonl.gz, .csv, .parquet or .json is")


def test_a_single_file_is_not_enough(task):
    (task / "mine.jsonl").write_text(lines(TRAIN))
    refused(task / "mine.jsonl", "there is no test file; put mine.test.jsonl beside mine.jsonl")
    (task / "mine.txt").write_text("x")
    refused(task / "mine.txt", f"{task / 'mine.txt'} is not a training file")


def test_two_files_for_one_split(task):
    (task / "train.csv").write_text("text,label\nx,a\n")
    refused(task.parent, f"{task}: train.jsonl and train.csv could both be the train split")
    (task / "train.csv").unlink()
    for name in ("dev", "validation"):
        (task / f"{name}.jsonl").write_text(lines(TEST))
    refused(task.parent, "validation.jsonl and dev.jsonl could both be the validation split")


# task.json and labels.json.


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("{", ", line 1: not valid JSON ("),
        ("[]", ": an object with keys such as"),
        ('{"labels": "a"}', ", labels: a list of label strings is expected, not 'a'"),
        ('{"labels": []}', ", labels: a list of label strings is expected, not []"),
        ('{"labels": ["a", null]}', ", labels: a list of label strings is expected"),
        ('{"labels": ["a", "a"]}', ", labels: label 'a' is listed twice"),
        ('{"options": "no"}', ", options: true or false is expected, not 'no'"),
        ('{"instruction": 3}', ", instruction: a string is expected, not 3"),
        ('{"definition": [3]}', ", definition: a string or a list of strings is expected, not [3]"),
        ('{"fields": {"txt": "a"}}', ", fields: field names under 'text', 'label' and 'references' are expected"),
        ('{"files": ["train.csv"]}', ", files: file names under train, validation and test are expected"),
        ('{"files": {"test": "../other.jsonl"}}', ", files, test: a file name inside the task's folder is expected"),
        ('{"hub": "glue"}', ", hub: an object with 'name' (and 'config', 'revision') is expected"),
    ],
)
def test_bad_card(task, card, says):
    (task / "task.json").write_text(card)
    refused(task.parent, f"{task / 'task.json'}{says}")


def test_card_names_a_file_that_is_not_there(task):
    (task / "task.json").write_text('{"files": {"test": "rows.jsonl"}}')
    refused(task.parent, f"{task / 'rows.jsonl'} cannot be read: No such file")


def test_bad_labels_file(task):
    (task / "labels.json").write_text('{"a": 1}')
    refused(task.parent, f"{task / 'labels.json'}: a list of label strings is expected")


# Names and folders.


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", f"The data folder {tmp_path / 'nowhere'} does not exist")
    with pytest.raises(DataError, match="does not exist"):
        find_tasks(tmp_path / "nowhere")


def test_unknown_task_names_the_near_ones(task):
    refused(task.parent, f"Task 'mien' is not in {task.parent}. Did you mean mine?", "Known: mine.", names=("mien",))


def test_one_level_too_high(task):
    refused(task.parent.parent, f"It is one level deeper: pass {task.parent}.")


def test_one_level_too_deep(task):
    refused(task, "It is the task 'mine' itself; to load others, pass the folder", names=("mine", "other"))
    (task / "task.json").write_text('{"name": "yours"}')
    refused(task, "It is the task 'yours' itself")
    folder = task.rename(task.with_name("cb"))
    (folder / "task.json").unlink()
    refused(folder, "It is the task 'cb' itself", names=("copa",))


def test_a_task_that_is_there_twice(task):
    (task.parent / "mine.jsonl").write_text(lines(TRAIN))
    refused(task.parent, f"Task 'mine' exists more than once: {task} and {task.parent / 'mine.jsonl'}")


@pytest.mark.parametrize("name", ["", " ", "..", "../mine", "a/b", "a\\b", "/mine", "mine\0"])
def test_names_that_leave_the_folder(task, name):
    refused(task.parent, f"Task name {name!r} cannot be used", names=(name,))


def test_names_given_twice(task):
    refused(task.parent, "Task 'mine' is named twice", names=("mine", "other", "mine"))
    refused(task.parent, "Task 'boolqa' is named twice", names=("boolq", "BoolQA"))
    refused(task.parent, "No task is named", names=())


def test_no_data_folder():
    refused(None, "Task 'mnli' needs a data folder, but none was given", names=("mnli",))


def test_unreadable_file(task, monkeypatch):
    def fail(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", fail)
    assert re.search("cannot be read: Permission denied", refused(task.parent, task / "train.jsonl"))
