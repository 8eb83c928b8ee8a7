"""Rows that mean more than a text and a label: what is read, what is named as unread, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nacre.errors import DataError
from nacre.evaluation.scoring import check_metric, normalize, normalized_labels, score
from nacre.tasks.checking.findings import label_findings, source_findings
from nacre.tasks.checking.targets import target_findings
from nacre.tasks.reading.sources import find_tasks, load_tasks
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

Make = Callable[[str, int], dict[str, Any]]
ASK = ("Translate to French.", "Give the opposite.", "Write it in capitals.")
SAY = ("chien", "cat", "DOG")


def load(folder: Path, make: Make, card: dict[str, Any] | None = None) -> Task:
    place = folder / "mine"
    place.mkdir(parents=True)
    for split, count in (("train", 12), ("validation", 6), ("test", 6)):
        rows = "".join(json.dumps(make(split, number)) + "\n" for number in range(count))
        (place / f"{split}.jsonl").write_text(rows)
    if card:
        (place / "task.json").write_text(json.dumps(card))
    return load_tasks(["mine"], folder)[0]


def chat(split: str, number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{split} {number}"}, {"role": "assistant", "content": "oui"}]}


# Alpaca's rows: the instruction is the question.


def test_an_instruction_comes_before_the_input(tmp_path: Path) -> None:
    task = load(
        tmp_path, lambda s, n: {"instruction": ASK[n % 3], "input": f"dog ({s} {n // 3})", "output": SAY[n % 3]}
    )
    examples = task.examples("train")[:3]
    assert [example.input.splitlines()[:3] for example in examples] == [[ask, "", "dog (train 0)"] for ask in ASK]
    assert [example.target for example in examples] == list(SAY)
    assert "unread" not in task.source


def test_an_instruction_alone_is_the_question(tmp_path: Path) -> None:
    task = load(tmp_path, lambda s, n: {"instruction": f"{s} {n} Name a color.", "input": "", "output": "red"})
    assert task.train[0].text == "train 0 Name a color."
    other = load(tmp_path / "b", lambda s, n: {"instruction": f"{s} {n} Name a color.", "output": "red"})
    assert other.train == task.train


def test_an_instruction_with_nothing_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: field 'input' is empty"):
        load(tmp_path, lambda s, n: {"instruction": "", "input": " ", "output": "red"})
    with pytest.raises(DataError, match=r"line 1: field 'instruction' must be a string, not \['x'\]"):
        load(tmp_path / "b", lambda s, n: {"instruction": ["x"], "input": "y", "output": "red"})


def test_named_fields_stay_as_they_are_named(tmp_path: Path) -> None:
    card = {"fields": {"text": "input", "label": "output"}}
    task = load(tmp_path, lambda s, n: {"instruction": "Do.", "input": f"{s} {n}", "output": "ab"[n % 2]}, card)
    assert task.train[0].text == "train 0"
    assert task.source["unread"] == ["instruction"]


# Columns that are not read.

UNREAD: dict[str, tuple[Make, list[str]]] = {
    "QNLI": (
        lambda s, n: {"question": f"Who wrote {n}?", "sentence": f"{s} {n} is by Ann.", "label": "yn"[n % 2]},
        ["question"],
    ),
    "aspects": (
        lambda s, n: {"text": f"{s} {n // 2} great food", "aspect": "fs"[n % 2], "label": "pn"[n % 2]},
        ["aspect"],
    ),
    "choices": (
        lambda s, n: {"text": f"{s} {n} the sky is", "choices": ["blue", "green"], "label": "AB"[n % 2], "idx": n},
        ["choices", "idx"],
    ),
    "context": (lambda s, n: {"prompt": f"{s} {n}?", "answer": "yes", "context": f"Yes, {n}."}, ["context"]),
    "liked answers": (lambda s, n: {"prompt": f"{s} {n}", "completion": "fine", "label": True}, ["label"]),
    "conversations": (lambda s, n: {**chat(s, n), "source": "web"}, ["source"]),
    "in some rows": (
        lambda s, n: {"text": f"{s} {n}", "label": "ab"[n % 2], **({"hint": "x"} if n == 5 else {})},
        ["hint"],
    ),
    "empty": (lambda s, n: {"text": f"{s} {n}", "label": "ab"[n % 2], "a": "", "b": None, "c": []}, []),
    "references": (lambda s, n: {"input": f"{s} {n}", "output": "a", "outputs": ["a", "b"]}, []),
}


@pytest.mark.parametrize("name", UNREAD)
def test_columns_that_are_not_read_are_named(tmp_path: Path, name: str) -> None:
    make, columns = UNREAD[name]
    task = load(tmp_path, make)
    assert task.source.get("unread", []) == columns
    findings = list(source_findings(task))
    assert len(findings) == bool(columns)
    for finding in findings:
        assert finding.count == len(columns)
        assert all(f"'{column}'" in finding.sentence for column in columns)
        assert "of 'mine' are not read" in finding.sentence


REFUSED: dict[str, tuple[Make, str]] = {
    "system beside messages": (lambda s, n: {**chat(s, n), "system": "In French."}, "with 'system' cannot be learned"),
    "history beside messages": (
        lambda s, n: {**chat(s, n), "history": [["a", "b"]]},
        "with 'history' cannot be learned",
    ),
    "tools": (lambda s, n: {**chat(s, n), "tools": [{"name": "search"}]}, "with 'tools' cannot be learned"),
    "system beside a prompt": (
        lambda s, n: {"system": "In French.", "prompt": f"{s} {n}", "completion": "oui"},
        "rows with 'system' cannot be learned",
    ),
    "history beside an instruction": (
        lambda s, n: {"instruction": f"{s} {n}", "input": "", "output": "x", "history": [["a", "b"]]},
        "rows with 'history' cannot be learned",
    ),
    "rejected": (
        lambda s, n: {"prompt": f"{s} {n}", "completion": "rude", "label": n != 3},
        "line 4: 'label' is False",
    ),
    "rejected, as text": (
        lambda s, n: {"prompt": f"{s} {n}", "completion": "rude", "label": "false"},
        "'label' is 'false'",
    ),
    "preferences": (lambda s, n: {"prompt": f"{s} {n}", "chosen": "a", "rejected": "b"}, "'chosen', 'rejected'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_inputs_without_a_place_are_refused(tmp_path: Path, name: str) -> None:
    make, says = REFUSED[name]
    with pytest.raises(DataError) as caught:
        load(tmp_path, make)
    assert says in str(caught.value)


def test_an_empty_system_prompt_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, lambda s, n: {**chat(s, n), "system": "", "tools": []}).train[0].target == "oui"


# Names and sizes of files.


def test_class_names_come_from_a_parquet_files_schema(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    features = {"label": {"names": ["negative", "positive"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    schema = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    (tmp_path / "mine").mkdir()
    for split, count in (("train", 20), ("validation", 6), ("test", 6)):
        columns = {"text": [f"{split} film {n}" for n in range(count)], "label": [n % 2 for n in range(count)]}
        table = pyarrow.table(columns).replace_schema_metadata(schema)
        parquet.write_table(table, tmp_path / "mine" / f"{split}.parquet")
    task = load_tasks(["mine"], tmp_path)[0]
    assert task.labels == ("negative", "positive")
    assert {row.target for row in task.test} == {"negative", "positive"}
    assert "Option: negative, positive" in task.examples("train")[0].input
    columns = {"text": ["x", "y"], "label": [0, -1]}
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(schema), tmp_path / "mine" / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet, row 2: field 'label' must be a string or a number, not null"):
        load_tasks(["mine"], tmp_path)
    for damaged in (b"[]", b"{", b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'):
        table = pyarrow.table(columns).replace_schema_metadata({b"huggingface": damaged})
        parquet.write_table(table, tmp_path / "mine" / "test.parquet")
        with pytest.raises(DataError, match="which names the classes, is damaged"):
            load_tasks(["mine"], tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "data/train-00000-of-00001.parquet",
        "train.jsonl.zst",
        "train.csv.gz",
        "train.tsv",
        "train.JSONL",
        "all.xlsx",
        "x/train.txt",
    ],
)
def test_files_under_other_names_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as caught:
        load_tasks(["mine"], tmp_path)
    assert f"there are {name}. Rename them" in str(caught.value)
    assert find_tasks(tmp_path) == []


def test_a_long_field_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for split in ("train", "test"):
        rows = "".join(f'"{"word " * (60_000 if n == 1 else 3)}{split} {n}",{"xy"[n % 2]}\n' for n in range(8))
        (tmp_path / "mine" / f"{split}.csv").write_text("text,label\n" + rows)
    assert max(len(row.text) for row in load_tasks(["mine"], tmp_path)[0].test) > 300_000


# What comparing answers deletes.


def free(*targets: str, metric: str = "exact_match", labels: tuple[str, ...] | None = None) -> Task:
    rows = tuple(Row(f"question {number}", target) for number, target in enumerate(targets))
    return Task("mine", rows, rows, rows, Template(), labels=labels, metric=metric)


FINDINGS = {
    "a sign": (("-5", "seven"), "'-5') are numbers that lose their sign"),
    "a point": (("1.5", "seven"), "'1.5') are numbers that lose their sign, point"),
    "a fraction": (("1/2", "seven"), "'1/2') are numbers"),
    "a time": (("3:00", "seven"), "'3:00') are numbers"),
    "signs only": (("<", "seven"), "'<') become nothing when answers are compared"),
    "programming languages": (("C", "C++", "C#"), "'C', 'C#', 'C++') become the same as another one"),
    "an end token": (("Paris</s>", "Rome</s>"), "(6 of 6".replace("(6 of 6", "6 of 6 targets of 'mine'")),
    "another end token": (("good<|im_end|>", "bad"), "'good<|im_end|>') begin or end with a special token"),
    "a bert token": (("good [SEP]", "bad"), "begin or end with a special token"),
    "a begin token": (("<s>good", "bad"), "begin or end with a special token"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_targets_that_cannot_be_compared_are_found(name: str) -> None:
    targets, says = FINDINGS[name]
    findings = [finding.sentence for finding in target_findings(free(*targets), normalize)]
    assert len(findings) == 1
    assert says in findings[0]


@pytest.mark.parametrize(
    "targets",
    [("5", "1,000", "2020"), ("Yes.", "yes", "no!"), ('"Paris"', "Paris"), ("the cat <is> here", "x"), ("a|b", "c")],
)
def test_what_nobody_minds_is_not_found(targets: tuple[str, ...]) -> None:
    assert list(target_findings(free(*targets), normalize)) == []


def test_other_metrics_compare_what_is_written() -> None:
    for metric in ("exact_string", "number", "edit_similarity"):
        assert list(target_findings(free("-5", "1.5", "C", "C++", metric=metric), normalize)) == []
    assert len(list(target_findings(free("Paris</s>", "b", metric="exact_string"), normalize))) == 1
    assert len(list(target_findings(free("a</s>", "b</s>", labels=("a</s>", "b</s>")), normalize))) == 1


def test_exact_string_takes_labels_that_differ_in_signs() -> None:
    targets = ("C", "C++", "C#", "C")
    task = free(*targets, metric="exact_string", labels=("C", "C++", "C#"))
    assert normalized_labels(task) == {"C", "C++", "C#"}
    assert list(label_findings(task, normalize)) == []
    perfect, wrong = score(task, list(targets)), score(task, ["c", "C", "C++", "D"])
    assert (perfect.value, perfect.accuracy, perfect.valid) == (1.0, 1.0, 1.0)
    assert (wrong.value, wrong.accuracy, wrong.valid) == (0.0, 0.0, 0.5)
    with pytest.raises(DataError, match="the metric exact_string compares letter by letter"):
        normalized_labels(free(*targets, labels=("C", "C++", "C#")))


CHINESE = ("天空是蓝色的，草是绿色的。", "他昨天去了北京的图书馆看书。")
SENTENCE = "the sky is blue today"


@pytest.mark.parametrize(
    ("metric", "targets", "says"),
    [
        ("bleu", ("blue sky", "red"), "no target of the test rows has four words"),
        ("bleu", CHINESE, "a script without spaces between words"),
        ("bleu", (*CHINESE, "新しい本を読みました。", SENTENCE), "a script without spaces between words"),
        ("bleu", ("วันนี้อากาศดีมาก", "ฉันไปตลาด"), "a script without spaces between words"),
        ("exact_match", ("<", ">", "="), "nothing is left of any target"),
        ("rouge_l", CHINESE, "such as edit_similarity."),
    ],
)
def test_a_metric_that_says_nothing_is_refused(metric: str, targets: tuple[str, ...], says: str) -> None:
    task = free(*targets, metric=metric)
    with pytest.raises(DataError) as caught:
        check_metric(task)
    assert says in str(caught.value)
    assert metric == "bleu" or "bleu" not in str(caught.value)
    with pytest.raises(DataError, match=re.escape(str(caught.value))):
        score(task, list(targets))  # perfect answers, which the metric would give 0


def test_bleu_where_it_says_something() -> None:
    task = free(SENTENCE, "red", metric="bleu")
    check_metric(task)
    assert score(task, [SENTENCE, "red"]).value == 1.0
