"""Every layout that tasks are read from, on files written here."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path

import pytest

from nacre.tasks.reading.sources import find_tasks, load_tasks
from nacre.tasks.task import Row
from nacre.tasks.template import Template

ROWS = {
    "train": [{"text": f"train {number}", "label": "yes" if number % 3 else "no"} for number in range(30)],
    "validation": [{"text": "validation 1", "label": "yes"}, {"text": "validation 2", "label": "no"}],
    "test": [{"text": "test 1", "label": "no"}, {"text": "test, \u2028 2", "label": "yes"}],
}


def put(path: Path, rows: list[dict]) -> Path:
    """Write rows in the kind of file the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines, encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def put_task(folder: Path, ending: str = ".jsonl", splits: dict[str, list[dict]] = ROWS, **card: object) -> Path:
    for split, rows in splits.items():
        put(folder / f"{split}{ending}", rows)
    if card:
        (folder / "task.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def one(name: str, data: Path, **settings: int):
    (task,) = load_tasks([name], data, **settings)
    return task


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".parquet", ".json"])
def test_folder_of_a_task(tmp_path, ending):
    put_task(tmp_path / "invoices", ending)
    task = one("invoices", tmp_path)
    for split in ("train", "validation", "test"):
        assert task.rows(split) == tuple(Row(row["text"], row["label"]) for row in ROWS[split])
    assert task.name == "invoices"
    assert task.labels == ("no", "yes")  # sorted labels of train
    assert task.metric == "exact_match"
    assert task.template == Template(options=True, dataset_name="invoices")
    assert task.examples("test")[0].input == "Option: no, yes \ntest 1\nAnswer:"
    train = tmp_path / "invoices" / f"train{ending}"
    assert task.source["files"]["train"] == {
        "file": train.name,
        "sha256": hashlib.sha256(train.read_bytes()).hexdigest(),
        "rows": 30,
    }
    assert "carved" not in task.source
    json.dumps(dict(task.source))  # plain values only


def test_the_source_does_not_say_where_the_folder_lies(tmp_path):
    put_task(tmp_path / "here" / "invoices")
    put_task(tmp_path / "there" / "invoices")
    assert one("invoices", tmp_path / "here") == one("invoices", tmp_path / "there")


def test_card_decides(tmp_path):
    splits = {split: [{"q": row["text"], "a": row["label"]} for row in rows] for split, rows in ROWS.items()}
    put_task(
        tmp_path / "invoices",
        splits=splits,
        family="Billing",
        name="Invoices 2024",
        labels=["yes", "no", "maybe"],
        instruction="Is it paid?",
        options=False,
        answer_cue="\n->",
        fields={"text": "q", "label": "a"},
        metric="macro_f1",
        license="our own",
    )
    task = one("invoices", tmp_path)
    assert task.labels == ("yes", "no", "maybe")
    assert task.metric == "macro_f1"
    assert task.source["license"] == "our own"
    assert task.template == Template("Is it paid?", False, "\n->", "Billing", "Invoices 2024")


def test_card_names_one_field_or_the_files(tmp_path):
    splits = {split: [{"text": row["text"], "answer": row["label"]} for row in rows] for split, rows in ROWS.items()}
    put_task(tmp_path / "a", splits=splits, fields={"label": "answer"})
    assert one("a", tmp_path).labels == ("no", "yes")
    splits = {split: [{"words": row["text"], "label": row["label"]} for row in rows] for split, rows in ROWS.items()}
    put_task(tmp_path / "b", splits=splits, fields={"text": "words"})
    assert one("b", tmp_path).train[0].text == "train 0"
    put_task(
        tmp_path / "c",
        splits={"part1": ROWS["train"], "part2": ROWS["test"]},
        files={"train": "part1.jsonl", "test": "part2.jsonl", "part1.jsonl": {"sha256": "a note", "bytes": 3}},
    )
    assert len(one("c", tmp_path).test) == 2


def test_free_text(tmp_path):
    put_task(
        tmp_path / "a", splits={k: [{"input": r["text"], "output": r["text"]} for r in v] for k, v in ROWS.items()}
    )
    task = one("a", tmp_path)
    assert task.labels is None
    assert task.examples("train")[0].input == "train 0\nAnswer:"
    put_task(tmp_path / "b", labels=None)
    assert one("b", tmp_path).labels is None


def test_complete_prompts_get_nothing_added(tmp_path):
    splits = {k: [{"prompt": r["text"], "completion": r["label"]} for r in v] for k, v in ROWS.items()}
    put_task(tmp_path / "a", splits=splits)
    assert one("a", tmp_path).examples("train")[0].input == "train 0"
    put_task(tmp_path / "b", splits=splits, labels=["no", "yes"], options=True, answer_cue=" =")
    assert one("b", tmp_path).examples("train")[0].input == "Option: no, yes \ntrain 0 ="


@pytest.mark.parametrize("definition", ["Say it.", ["Say", "it."]])
def test_definition_stands_for_an_instruction(tmp_path, definition):
    put_task(tmp_path / "a", definition=definition)
    assert one("a", tmp_path).template.instruction == "Say it."


@pytest.mark.parametrize(
    ("written", "metric", "note"),
    [
        ("rouge_l", "rouge_l", None),
        ("accuracy", "exact_match", None),
        ("ROUGE-L (as in the paper)", "exact_match", "ROUGE-L (as in the paper)"),
    ],
)
def test_metric_is_a_name_or_a_note(tmp_path, written, metric, note):
    put_task(tmp_path / "a", metric=written)
    task = one("a", tmp_path)
    assert (task.metric, task.source.get("metric_note")) == (metric, note)


def test_published_task_in_a_folder(tmp_path):
    rows = {split: [{"text": row["text"], "label": "True"} for row in rows] for split, rows in ROWS.items()}
    put_task(tmp_path / "boolq", splits=rows)
    task = one("BoolQA", tmp_path)
    assert task.name == "boolqa"
    assert task.labels == ("True", "False")
    assert task.template.instruction.startswith("According to the following passage, is the question true")
    assert (task.template.type_name, task.template.dataset_name) == ("BoolQA", "BoolQA")
    assert task.source["license"] == "CC BY-SA 3.0"
    put_task(tmp_path / "boolq", splits=rows, instruction="True?", labels=["False", "True"])
    assert one("boolq", tmp_path).examples("test")[0].before == "True?\nOption: False, True \n"


def test_copa_has_neither_instruction_nor_options(tmp_path):
    put_task(tmp_path / "copa", splits={k: [{"text": r["text"], "label": "A"} for r in v] for k, v in ROWS.items()})
    assert one("copa", tmp_path).examples("test")[0].before == ""


def test_numbers_and_truth_values_become_strings(tmp_path):
    labels = [1, 2.5, True, "x"]
    rows = [{"text": f"text {number}", "label": labels[number % 4]} for number in range(16)]
    put_task(tmp_path / "a", splits={"train": rows, "test": [{"text": "t", "label": 1}]}, labels=[1, 2.5, True, "x"])
    assert one("a", tmp_path).labels == ("1", "2.5", "True", "x")


def test_no_validation_is_carved_and_recorded(tmp_path):
    put_task(tmp_path / "a", splits={"train": ROWS["train"], "test": ROWS["test"]})
    task = one("a", tmp_path, seed=4)
    assert (len(task.train), len(task.validation)) == (27, 3)
    assert task.source["carved"] == {"from": "train", "seed": 4, "rows": 3}
    assert {row.target for row in task.validation} == {"no", "yes"}
    assert task == one("a", tmp_path, seed=4)
    assert task.validation != one("a", tmp_path, seed=5).validation


@pytest.mark.parametrize("split", ["validation", "valid", "dev", "val", "eval"])
def test_other_names_of_the_validation_split(tmp_path, split):
    put_task(tmp_path / "a", splits={"train": ROWS["train"], split: ROWS["validation"], "test": ROWS["test"]})
    assert len(one("a", tmp_path).validation) == 2


@pytest.mark.parametrize("rows", [ROWS["test"], ROWS["test"][::-1]])
def test_validation_that_is_the_test_split_is_never_used(tmp_path, rows):
    put_task(tmp_path / "a", splits={"train": ROWS["train"], "validation": rows, "test": ROWS["test"]})
    task = one("a", tmp_path)
    assert set(task.validation) <= {Row(row["text"], row["label"]) for row in ROWS["train"]}
    assert task.source["not_used"] == {"validation": "its rows are the test rows"}
    assert task.source["files"]["validation"]["rows"] == 2


def put_benchmark(root: Path) -> Path:
    """A small CL_Benchmark: dev is test, and MNLI has rows without a gold label."""
    sentences = [{"sentence": f"s {n}", "label": ("neutral", "entailment", "contradiction")[n % 3]} for n in range(40)]
    test = [{"label": "neutral", "sentence": "t 1"}, {"sentence": "t 2", "label": "-"}]
    for split, rows in {"train": sentences, "dev": test, "test": test}.items():
        put(root / "NLI" / "MNLI" / f"{split}.json", rows)
    (root / "NLI" / "MNLI" / "labels.json").write_text('["neutral", "entailment", "contradiction"]')
    ours = [{"sentence": f"o {n}", "label": "ab"[n % 2]} for n in range(20)]
    put(root / "Ours" / "Mine" / "train.json", ours)
    put(root / "Ours" / "Mine" / "test.json", [{"sentence": "o", "label": "b"}])
    (root / "Ours" / "Mine" / "labels.json").write_text('["b", "a"]')
    return root


@pytest.mark.parametrize("name", ["mnli", "MNLI"])
@pytest.mark.parametrize("inside", [True, False])
def test_published_folder(tmp_path, name, inside):
    root = put_benchmark(tmp_path / "CL_Benchmark")
    task = one(name, root if inside else tmp_path)
    assert task.name == "mnli"
    assert task.labels == ("neutral", "entailment", "contradiction")
    assert task.test == (Row("t 1", "neutral"),)
    assert (len(task.train), len(task.validation)) == (36, 4)
    assert task.source["dropped"] == {"validation": 1, "test": 1}
    assert task.source["carved"]["rows"] == 4
    assert task.source["layout"] == "cl_benchmark"
    full = task.with_identity("full").examples("test")[0]
    assert full.input.startswith("Task:NLI\nDataset:MNLI\nWhat is the logical relationship")


def test_published_folder_with_a_task_of_ones_own(tmp_path):
    task = one("Mine", put_benchmark(tmp_path))
    assert task.labels == ("b", "a")
    assert (task.template.type_name, task.template.dataset_name) == ("Ours", "Mine")


def test_a_folder_that_is_the_task(tmp_path):
    put_task(tmp_path / "batch7", notes="nothing")
    assert one("invoices", tmp_path / "batch7").name == "invoices"
    assert find_tasks(tmp_path / "batch7") == ["batch7"]
    put_task(tmp_path / "batch8", name="receipts")
    assert one("receipts", tmp_path / "batch8").name == "receipts"


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_single_files(tmp_path, ending):
    put(tmp_path / f"invoices{ending}", ROWS["train"])
    put(tmp_path / f"invoices.test{ending}", ROWS["test"])
    assert find_tasks(tmp_path) == ["invoices"]
    task = one("invoices", tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (27, 3, 2)
    assert task.source["layout"] == "file"
    put(tmp_path / "invoices.validation.jsonl", ROWS["validation"])
    assert len(one("invoices", tmp_path).validation) == 2
    assert one("bills", tmp_path / f"invoices{ending}").name == "bills"  # the file itself, under any name


def test_layouts_stand_side_by_side(tmp_path):
    put_benchmark(tmp_path)
    put_task(tmp_path / "invoices")
    put(tmp_path / "bills.csv", ROWS["train"])
    put(tmp_path / "bills.test.csv", ROWS["test"])
    (tmp_path / "notes.txt").write_text("no task")
    (tmp_path / ".hidden").mkdir()
    assert find_tasks(tmp_path) == ["Mine", "bills", "invoices", "mnli"]
    names = ["invoices", "mnli", "bills"]
    assert [task.name for task in load_tasks(names, str(tmp_path))] == names


def test_byte_order_mark_and_blank_lines(tmp_path):
    put_task(tmp_path / "a")
    for split in ("train", "test"):
        path = tmp_path / "a" / f"{split}.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\n")
    assert len(one("a", tmp_path).train) == 30
    put_task(tmp_path / "b", ".csv")
    path = tmp_path / "b" / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(one("b", tmp_path).train) == 30


def test_without_data_there_is_the_demo():
    names = find_tasks(None)
    assert [task.name for task in load_tasks(names[::-1], None)] == names[::-1]
