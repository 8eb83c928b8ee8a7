"""Rows, cards and streams that are malformed in ways people and machines come up with: one line names the place."""

from __future__ import annotations

import gzip
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nacre.errors import NacreError
from nacre.tasks.reading.sources import find_tasks, load_tasks
from nacre.tasks.reading.stream_file import read_stream

TRAIN = [{"text": f"train {number}", "label": "ab"[number % 2]} for number in range(12)]
DEEP = "[" * 100_000 + "]" * 100_000
GOOD_LINES = "".join(json.dumps(row) + "\n" for row in TRAIN)


def write_task(
    folder: Path, train: bytes | str = GOOD_LINES, name: str = "train.jsonl", card: str | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(train.encode() if isinstance(train, str) else train)
    (folder / "test.jsonl").write_text('{"text": "a test", "label": "a"}\n')
    if card is not None:
        (folder / "task.json").write_text(card)


def refused(data: Path, *parts: str) -> None:
    """One line of a bounded length that names the culprit, within seconds."""
    begun = time.process_time()
    with pytest.raises(NacreError) as caught:
        load_tasks(["mine"], data)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert len(message) < 900
    assert time.process_time() - begun < 5


LINES = {
    "deep list": ('{"text": "x", "label": "a", "more": ' + DEEP + "}", "nested too deeply"),
    "deep objects": (
        '{"text": "x", "label": "a", "more": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}",
        "too deeply",
    ),
    "unclosed deep list": ("[" * 100_000, "nested too deeply"),
    "two labels": ('{"text": "x", "label": "a", "label": "b"}', "the key 'label' stands twice in one object"),
    "two texts": ('{"text": "x", "label": "a", "text": "y"}', "the key 'text' stands twice in one object"),
    "two others": ('{"text": "x", "label": "a", "id": 1, "id": 2}', "the key 'id' stands twice in one object"),
    "5,000 digits as a label": ('{"text": "x", "label": ' + "1" * 5000 + "}", "a number has too many digits"),
    "5,000 digits elsewhere": ('{"text": "x", "label": "a", "id": ' + "1" * 5000 + "}", "a number has too many digits"),
    "infinite label": ('{"text": "x", "label": 1e999}', "the number 1e999 is too large"),
    "infinity": ('{"text": "x", "label": Infinity}', "Infinity is not a JSON value"),
    "label object": ('{"text": "x", "label": {"a": 1}}', "field 'label' must be a string or a number"),
    "long label object": (json.dumps({"text": "x", "label": ["y" * 10_000] * 100}), "field 'label' must be a string"),
    "text list": ('{"text": ["x"], "label": "a"}', "field 'text' must be a string, not ['x']"),
    "text of 6 MB": (json.dumps({"text": "word " * 1_200_000, "label": "a"}), "has 6,000,000 characters"),
    "label of 6 MB": (
        json.dumps({"text": "x", "label": "word " * 1_200_000}),
        "field 'label' has 6,000,000 characters",
    ),
    "half a character in the text": ('{"text": "\\udc00", "label": "a"}', "field 'text' holds half a character"),
    "half a character in the label": ('{"text": "x", "label": "\\ud800"}', "field 'label' holds half a character"),
    "10,000 other fields": (json.dumps({f"field {n}": n for n in range(10_000)}), "there is no field 'text'"),
    "long field name": (json.dumps({"f" * 100_000: 1}), "there is no field 'text'"),
    "trailing comma": ('{"text": "x", "label": "a",}', "not valid JSON"),
    "two objects on a line": ('{"text": "x", "label": "a"}{"text": "x", "label": "a"}', "not valid JSON"),
    "single quotes": ("{'text': 'x', 'label': 'a'}", "not valid JSON"),
    "tab in a string": ('{"text": "x\ty", "label": "a"}', "not valid JSON"),
    "NUL": ("\0", "not valid JSON"),
    "a number": ("17", "an object with fields is expected, but this is a number"),
    "null": ("null", "but this is null"),
    "true": ("true", "but this is true or false"),
    "a git-lfs pointer": ("version https://git-lfs.github.com/spec/v1", "not valid JSON"),
    "HTML": ("<!DOCTYPE html>", "not valid JSON"),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_malformed_line(tmp_path: Path, name: str, packed: bool) -> None:
    line, says = LINES[name]
    content = GOOD_LINES.splitlines()
    content[6] = line
    data = "\n".join(content).encode()
    file = "train.jsonl.gz" if packed else "train.jsonl"
    write_task(tmp_path / "mine", gzip.compress(data, 1) if packed else data, file)
    refused(tmp_path, f"{file}, line 7", says)


@pytest.mark.parametrize("name", LINES)
def test_a_malformed_list(tmp_path: Path, name: str) -> None:
    line, says = LINES[name]
    if says in ("not valid JSON", "the key 'label' stands twice"):
        says = "train.json"
    write_task(
        tmp_path / "mine", "[" + ", ".join([json.dumps(TRAIN[0]), json.dumps(TRAIN[1]), line]) + "]", "train.json"
    )
    refused(tmp_path, "train.json", says)


FILES = {
    "empty": ("train.jsonl", b"", "holds no rows"),
    "blank": ("train.jsonl", b"\n \n", "holds no rows"),
    "zeros": ("train.jsonl", b"\0" * 100_000, "not valid JSON"),
    "UTF-16": ("train.jsonl", GOOD_LINES.encode("utf-16"), "not UTF-8"),
    "Latin-1": ("train.jsonl", '{"text": "Räder", "label": "a"}'.encode("latin-1"), "line 1: not UTF-8"),
    "a line of 65 MB": ("train.jsonl", b'{"text": "' + b"x" * 65_000_000, "the line has more than 64,000,000 bytes"),
    "a list in .jsonl": ("train.jsonl", b"[\n{}\n]", "line 1"),
    "not gzip": ("train.jsonl.gz", GOOD_LINES.encode(), "is not a gzip file"),
    "cut gzip": ("train.jsonl.gz", gzip.compress(GOOD_LINES.encode())[:40], "is a damaged gzip file"),
    "changed gzip": ("train.jsonl.gz", gzip.compress(GOOD_LINES.encode())[:-8] + b"12345678", "gzip"),
    "gzip of a long line": ("train.jsonl.gz", gzip.compress(b"x" * 65_000_000, 1), "more than 64,000,000 bytes"),
    "number in .json": ("train.json", b"3", "a JSON list of objects is expected, but this is a number"),
    "object in .json": ("train.json", b"{}", "a JSON list of objects is expected, but this is an object"),
    "two keys in .json": ("train.json", b'{"Instances": [], "Instances": []}', "the key 'Instances' stands twice"),
    "definition of a number": ("train.json", b'{"Definition": 3, "Instances": []}', "Definition: a string or a list"),
    "deep .json": ("train.json", DEEP.encode(), "nested too deeply"),
    "cut .json": ("train.json", b'[{"text": "x"', "not valid JSON"),
    "csv without rows": ("train.csv", b"text,label\n", "holds no rows"),
    "csv of one column": ("train.csv", b"text\nx\n", "the columns are 'text'"),
    "csv with a long row": (
        "train.csv",
        b"text,label\nx,a\nx,a,b\n",
        "line 3: 3 values, but the header names 2 columns",
    ),
    "csv with a short row": ("train.csv", b"text,label\nx\n", "line 2: 1 values"),
    "csv with equal columns": ("train.csv", b"text,label,label\nx,a,b\n", "two columns have the same name"),
    "csv with an open quote": ("train.csv", b'text,label\n"x,a\n', "not valid CSV"),
    "csv with NUL": ("train.csv", b"text,label\nx\0,a\n,b\n", "train.csv, line "),
    "csv in Latin-1": ("train.csv", "text,label\nRäder,a\n".encode("latin-1"), "is not UTF-8 text"),
    "csv with an empty label": ("train.csv", b"text,label\nx,\n", "line 2: field 'label' is empty"),
    "not Parquet": ("train.parquet", b"PAR1 nothing PAR1", "is not a readable Parquet file"),
    "empty Parquet": ("train.parquet", b"", "is not a readable Parquet file"),
    "a folder": ("train.jsonl/x", b"", "is a folder; a data file is expected there"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file(tmp_path: Path, name: str) -> None:
    file, content, says = FILES[name]
    (tmp_path / "mine" / file).parent.mkdir(parents=True)
    write_task(tmp_path / "mine", content, file)
    refused(tmp_path, file.partition("/")[0], says)


SPECIAL = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a device without content": lambda path: path.symlink_to("/dev/null"),
    "a link in a circle": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize(
    "file", ["train.jsonl", "train.jsonl.gz", "train.csv", "train.json", "train.parquet", "task.json"]
)
def test_what_is_no_file(tmp_path: Path, file: str, name: str) -> None:
    write_task(tmp_path / "mine")
    if file != "task.json":
        (tmp_path / "mine" / "train.jsonl").unlink()
    SPECIAL[name](tmp_path / "mine" / file)
    refused(tmp_path, "mine")


CARDS = {
    "deep": (DEEP, "nested too deeply"),
    "deep license": ('{"license": ' + "[" * 60 + "]" * 60 + "}", "nested more than 50 deep"),
    "two keys": ('{"labels": ["a", "b"], "labels": ["a"]}', "the key 'labels' stands twice"),
    "surrogate in the instruction": ('{"instruction": "\\ud800"}', "holds half a character"),
    "surrogate in a label": ('{"labels": ["a", "\\ud800"]}', "holds half a character"),
    "surrogate in the family": ('{"family": "\\ud800"}', "holds half a character"),
    "surrogate in the license": ('{"license": "\\ud800"}', "holds half a character"),
    "surrogate in a note": ('{"note": {"x": ["\\ud800"]}}', "holds half a character"),
    "surrogate in a key": ('{"\\ud800": 1}', "holds half a character"),
    "NUL in a file": ('{"files": {"train": "a\\u0000b"}}', "holds the character NUL"),
    "NUL in the name": ('{"name": "a\\u0000b"}', "holds the character NUL"),
    "NUL in the instruction": ('{"instruction": "a\\u0000b"}', "holds the character NUL"),
    "long file": (json.dumps({"files": {"train": "x" * 5000}}), "is longer than a file system allows"),
    "long file name": (json.dumps({"files": {"train": "x" * 256}}), "is longer than a file system allows"),
    "file of nobody": ('{"files": {"train": "~nobodyhere/x"}}', "there is no home folder of that name"),
    "file above": ('{"files": {"train": "../x"}}', "a file name inside the task's folder is expected"),
    "file at the root": ('{"files": {"train": "/etc/passwd"}}', "a file name inside the task's folder is expected"),
    "files of a number": ('{"files": {"train": 3}}', "a file name inside the task's folder is expected, not 3"),
    "missing file": ('{"files": {"train": "none.jsonl"}}', "none.jsonl"),
    "NaN": ('{"license": NaN}', "NaN is not a JSON value"),
    "infinite": ('{"license": 1e400}', "1e400 is too large"),
    "5,000 digits": ('{"license": ' + "9" * 5000 + "}", "too many digits"),
    "labels of a bomb": (json.dumps({"labels": {"x": [["y" * 1000] * 100] * 100}}), "labels: a list of label strings"),
    "options of a list": (json.dumps({"options": ["x" * 1000] * 100}), "options: true or false is expected"),
    "metric of a list": ('{"metric": ["bleu"]}', "metric: a string is expected, not ['bleu']"),
    "unknown metric": ('{"metric": "blue"}', "there is no metric 'blue'"),
    "long metric": (json.dumps({"metric": "m" * 100_000}), "there is no metric"),
    "hub of a number": ('{"hub": {"name": 3}}', "name: a string is expected, not 3"),
    "Latin-1": ('{"instruction": "R\udce4der"}', "is not UTF-8 text"),
    "not JSON": ("labels: [a, b]", "line 1: not valid JSON"),
    "empty": ("", "line 1: not valid JSON"),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_malformed_card(tmp_path: Path, name: str) -> None:
    card, says = CARDS[name]
    write_task(tmp_path / "mine")
    (tmp_path / "mine" / "task.json").write_bytes(card.encode(errors="surrogateescape"))
    refused(tmp_path, says)


PLACES: dict[str, tuple[str, str]] = {
    "nobody's home": ("~nobodyhere", "there is no home folder of that name"),
    "nobody's file": ("~nobodyhere/data", "there is no home folder of that name"),
    "NUL": ("a\0b", "holds the character NUL"),
    "surrogate": ("a\ud800b", "holds half a character"),
    "not UTF-8": ("a\udcffb", "holds half a character"),
    "long name": ("x" * 256, "is longer than a file system allows"),
    "long path": ("x/" * 3000, "is longer than a file system allows"),
    "missing": ("no/such/folder", "does not exist"),
    "empty": ("", "An empty text is not a path"),
    "no training file": ("/etc/passwd", "is not a training file"),
    "device": ("/dev/null", "/dev/null is neither a folder nor a file"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_malformed_place(name: str) -> None:
    place, says = PLACES[name]
    for read in (lambda: load_tasks(["mine"], place), lambda: find_tasks(place) and load_tasks(["mine"], place)):
        with pytest.raises(NacreError) as caught:
            read()
        assert says in str(caught.value)
        assert len(str(caught.value)) < 400


NAMES: dict[str, Any] = {
    "a string": ("mine", "A list of task names is expected, such as ['mine']"),
    "a number": ([3], "A task's name is a string, not 3"),
    "null": ([None], "A task's name is a string, not None"),
    "a line end": (["a\nb"], "Task name 'a\\nb' cannot be used"),
    "an escape character": (["a\x1b[31mb"], "Task name 'a\\x1b[31mb' cannot be used"),
    "a bell": (["a\x07"], "Task name 'a\\x07' cannot be used"),
    "a reversed direction": (["a\u202eb"], "Task name 'a\\u202eb' cannot be used"),
    "a surrogate": (["a\ud800"], "Task name 'a\\ud800' cannot be used"),
    "a long name": (["x" * 300], "a name has at most 200 bytes"),
    "a folder": (["a/b"], "cannot be used"),
    "nothing": ([""], "cannot be used"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_malformed_name(tmp_path: Path, name: str) -> None:
    names, says = NAMES[name]
    with pytest.raises(NacreError) as caught:
        load_tasks(names, tmp_path)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


ONE = "tasks: [{name: a, train: a.jsonl, test: b.jsonl, "
HEAD = "name: own\ntasks:\n  - {name: one, train: a.jsonl, test: b.jsonl}\n"
STREAMS = {
    "two equal task keys": ("tasks:\n- name: a\n  train: x\n  test: y\n  train: z\n", "'train' stands twice"),
    "two equal keys": (HEAD + "name: other\n", "line 4: the key 'name' stands twice"),
    "date as the license": (ONE + "license: 2020-01-01}]", "put it in quotes"),
    "NaN as the license": (ONE + "license: .nan}]", "license: nan is not a number"),
    "set as the license": (ONE + "license: !!set {x}}]", "a set cannot be used"),
    "recursive license": (ONE + "license: &l [*l]}]", "inside of what it names"),
    "keys of two kinds": (ONE + "license: {a: 1, 2: b}}]", "must be a word, not '2'"),
    "date as a name": ("tasks: [{name: 2020-01-01, train: a.jsonl, test: b.jsonl}]", "2020-01-01 is read as a date"),
    "number as a name": ("tasks: [{name: 7, train: a.jsonl, test: b.jsonl}]", "name: a string is expected, not 7"),
    "list as a name": ("tasks: [{name: [a], train: a.jsonl, test: b.jsonl}]", "name: a string is expected, not ['a']"),
    "line end in a name": ('tasks: [{name: "a\\nb", train: a.jsonl, test: b.jsonl}]', "'a\\nb' cannot be used"),
    "escape in a name": ('tasks: [{name: "a\\eb", train: a.jsonl, test: b.jsonl}]', "'a\\x1bb' cannot be used"),
    "escape in the stream's name": ('name: "a\\eb"\n' + HEAD[10:], "'a\\x1bb' cannot be used"),
    "NUL in a file": ('tasks: [{name: a, train: "a\\0b", test: b.jsonl}]', "holds the character NUL"),
    "nobody's file": ("tasks: [{name: a, train: ~nobodyhere/x, test: b.jsonl}]", "there is no home folder"),
    "long file": (f"tasks: [{{name: a, train: {'x' * 5000}, test: b.jsonl}}]", "is longer than a file system allows"),
    "number as a file": ("tasks: [{name: a, train: 3, test: b.jsonl}]", "train: the name of a file is expected, not 3"),
    "no test file": ("tasks: [{name: a, train: a.jsonl}]", "test: the name of a file is expected, not None"),
    "truth values as labels": ("tasks: [{name: a, train: a, test: b, labels: [yes, no]}]", "put such labels in quotes"),
    "base 60 as a label": ("tasks: [{name: a, train: a, test: b, labels: [12:30, 13:30]}]", "put it in quotes"),
    "base 8 as a label": ("tasks: [{name: a, train: a, test: b, labels: [007, 001]}]", "put it in quotes"),
    "labels of a mapping": ("tasks: [{name: a, train: a, test: b, labels: {x: y}}]", "a list of label strings"),
    "unknown key": ("tasks: [{name: a, train: a, test: b, label: [x]}]", "there is no key 'label'"),
    "unknown long key": (f"tasks: [{{name: a, train: a, test: b, {'k' * 1000}: 1}}]", "there is no key 'kkk"),
    "unknown top key": (HEAD + "task: 3\n", "there is no key 'task'"),
    "unknown kind": ("tasks: [{name: a, train: a, test: b, kind: [x]}]", "kind: 'answer' or 'text' is expected"),
    "tasks of a mapping": ("tasks: {a: b}", "'tasks', a list of at least one task, is expected"),
    "no tasks": ("tasks: []", "'tasks', a list of at least one task, is expected"),
    "a task of a string": ("tasks: [a]", "task 1: keys and values such as 'name' and 'train' are expected, not 'a'"),
    "a list": ("[1, 2]", "'tasks', a list of at least one task, is expected"),
    "empty": ("", "'tasks', a list of at least one task, is expected"),
    "the same task twice": (HEAD + "  - {name: one, train: a, test: b}\n", "Task 'one' is named twice"),
    "Latin-1": (b"name: R\xe4der\n", "it is not UTF-8"),
    "UTF-16": (HEAD.encode("utf-16"), "it is not UTF-8"),
    "zeros": (b"\0" * 1000, "is not valid YAML"),
    "10 MB": ("tasks:\n" + "- {name: one, train: a.jsonl, test: b.jsonl}\n" * 230_000, "2,000,000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_malformed_stream(tmp_path: Path, name: str) -> None:
    content, says = STREAMS[name]
    file = tmp_path / "own.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.process_time()
    with pytest.raises(NacreError) as caught:
        read_stream(file)
    assert says in str(caught.value)
    assert "own.yaml" in str(caught.value) or "path" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("name", SPECIAL)
def test_a_stream_that_is_no_file(tmp_path: Path, name: str) -> None:
    SPECIAL[name](tmp_path / "own.yaml")
    with pytest.raises(NacreError, match=r"own\.yaml"):
        read_stream(tmp_path / "own.yaml")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["text", "label", "sentence", "input", "output", "outputs", "prompt", "completion", "answer",
                        "messages", "instruction", "system", "tools", "role", "content", "x"])  # fmt: skip
RECORDS = st.dictionaries(KEYS, VALUES, max_size=5) | VALUES


def read_or_refused(folder: Path, records: list[Any], ending: str) -> None:
    write_task(folder / "mine")
    (folder / "mine" / "train.jsonl").unlink()
    text = json.dumps(records) if ending == ".json" else "\n".join(map(json.dumps, records))
    (folder / "mine" / f"train{ending}").write_text(text)
    with suppress(NacreError):
        load_tasks(["mine"], folder)
    (folder / "mine" / f"train{ending}").unlink()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS, max_size=5), ending=st.sampled_from([".json", ".jsonl"]))
def test_any_rows_are_read_or_refused(tmp_path: Path, records: list[Any], ending: str) -> None:
    read_or_refused(tmp_path, records, ending)


@pytest.mark.long
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS, max_size=5), ending=st.sampled_from([".json", ".jsonl"]))
def test_any_rows_are_read_or_refused_for_long(tmp_path: Path, records: list[Any], ending: str) -> None:
    read_or_refused(tmp_path, records, ending)


CARD_KEYS = st.sampled_from(["name", "family", "labels", "instruction", "options", "answer_cue", "definition", "metric",
                             "fields", "files", "hub", "license", "kind"])  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(card=st.dictionaries(CARD_KEYS, VALUES, max_size=4) | VALUES)
def test_any_card_is_read_or_refused(tmp_path: Path, card: Any) -> None:
    write_task(tmp_path / "mine", card=json.dumps(card))
    with suppress(NacreError):
        load_tasks(["mine"], tmp_path)
