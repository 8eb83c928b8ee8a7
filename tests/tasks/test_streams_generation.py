"""Streams whose answers are written: their rows in every layout, and runs from end to end with a tiny model."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Call
from helpers.tiny import tiny_host
from nacre.errors import DataError, RecipeError
from nacre.events import ignore
from nacre.files import hash_of
from nacre.learning.settings import Optim
from nacre.models.families import Lengths
from nacre.records.run import RunRecord
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.published.streams import get_stream
from nacre.tasks.published.written import INSTRUCTION, SUPERNI, TRACE
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.reading.stream_file import read_stream
from nacre.tasks.task import Row
from nacre.tasks.template import Example

Model = Callable[[str], Path]

PROMPTS = {  # how every prompt of a TRACE task begins and ends, written out from its files
    "C-STANCE": (
        "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n文本：\n",
        "\n态度：",
    ),
    "FOMC": (
        "What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. Choose one from "
        "A, B and C.\nText:\n",
        "\nStance:",
    ),
    "MeetingBank": ("Write a summary of the following meeting transcripts.\nMeeting transcripts:\n", "\nSummary:"),
    "Py150": ("", ""),
    "ScienceQA": (
        "Choose an answer for the following question and give your reasons.\n\nQuestion:\n",
        "\n\nAnswer:",
    ),
    "NumGLUE-cm": ("Solve the following math problem.\nQuestion:\n", "\nAnswer:"),
    "NumGLUE-ds": ("Solve the following math problem.\nQuestion:\n", "\nAnswer:"),
    "20Minuten": (
        "Provide a simplified version of the following paragraph in German.\n\nParagraph:\n",
        "\n\nSimplification:",
    ),
}
ANSWERS = {
    "C-STANCE": "A",
    "FOMC": "B",
    "MeetingBank": "the dog sees the sea",
    "Py150": "return x",
    "ScienceQA": "B\nas the sky is blue",
    "NumGLUE-cm": "5",
    "NumGLUE-ds": "5.0",
    "20Minuten": "the cat sees a stone",
}
METRICS = "exact_match exact_match rouge_l edit_similarity first_character number number sari".split()
TITLES = ["exact match"] * 2 + ["ROUGE-L", "edit similarity", "first character", "number", "number", "SARI"]
WORDS = "red green blue dog cat cow hen stone lamp spoon".split()


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def text(split: str, number: int) -> str:
    return f"the {WORDS[number % 10]} {WORDS[number // 10]} near a {split}"


def write_trace(folder: Path, *, published: bool) -> Path:
    """TRACE rows, in the published layout (prompt and answer in JSON lists) or in nacre's own."""
    for name, (opening, closing) in PROMPTS.items():
        for split, rows in (("train", 12), ("eval" if published else "validation", 3), ("test", 3)):
            keys = ("prompt", "answer") if published else ("input", "output")
            values = [
                dict(zip(keys, (opening + text(split, number) + closing, ANSWERS[name]), strict=True))
                for number in range(rows)
            ]
            if published:
                put(folder / name / f"{split}.json", json.dumps(values))
            else:
                put(folder / name / f"{split}.jsonl", "".join(json.dumps(value) + "\n" for value in values))
    return folder


def write_superni(folder: Path, name: str, **more: Any) -> Path:
    """A task in SAPT's schema, below CL_Benchmark/SuperNI."""
    for split, rows in (("train", 12), ("dev", 3), ("test", 3)):
        instances = [
            {
                "input": text("test" if split == "dev" else split, number),
                "output": ["the dog .", "a dog"] if number % 2 else "a cat",
                "id": f"{name}-{number}",
            }
            for number in range(rows)
        ]
        content = {"Definition": ["Name the animal.", "One is enough. "], "Instances": instances, **more}
        put(folder / "CL_Benchmark" / "SuperNI" / name / f"{split}.json", json.dumps(content))
    return folder


def recipe(stream: str, data: Path | None, model: Path, output: Path, **changes: Any) -> Recipe:
    optim = Optim(batch_size=4, max_source_length=changes.pop("max_source_length", 256), max_target_length=6)
    wanted = {"limit_train": 4, "limit_test": 2, "matrix": "last", **changes}
    place = None if data is None else str(data)
    return Recipe(
        method="seq_lora", stream=stream, data=place, model=str(model), output=str(output), optim=optim, **wanted
    )


def carried_out(*arguments: Any, **changes: Any) -> RunRecord:
    """The record of a run, whose numbers are all shares."""
    found = run(recipe(*arguments, **changes), ignore)
    last = found.matrix[-1]
    assert len(last) == len(found.tasks)
    assert all(value is not None and 0 <= value <= 1 for value in last)
    return found


# TRACE.


@pytest.mark.parametrize("published", [True, False])
def test_trace_rows(tmp_path, published):
    tasks = load_tasks(get_stream("trace").tasks, write_trace(tmp_path, published=published))
    assert [task.name for task in tasks] == list(PROMPTS)
    assert [task.metric for task in tasks] == METRICS
    for task in tasks:
        opening, closing = PROMPTS[task.name]
        example = task.examples("train")[3]
        assert (example.before, example.text, example.after) == (opening, text("train", 3), closing)
        assert example.target == ANSWERS[task.name]
        assert len(task.validation) == 3
        assert "carved" not in task.source
    assert [task.labels for task in tasks] == [("A", "B", "C")] * 2 + [None] * 6


def test_trace_rows_of_another_wording_stay_whole(tmp_path):
    write_trace(tmp_path, published=True)
    file = tmp_path / "FOMC" / "test.json"
    rows = json.loads(file.read_text())
    rows[1]["prompt"] = "dovish or hawkish ?"
    file.write_text(json.dumps(rows))
    (task,) = load_tasks(["FOMC"], tmp_path)
    assert task.examples("test")[1].input == "dovish or hawkish ?"
    assert task.examples("test")[0].input == PROMPTS["FOMC"][0] + text("test", 0) + PROMPTS["FOMC"][1]
    assert task.examples("test")[0].after == ""


def test_trace_runs(tmp_path, tiny_model):
    data = write_trace(tmp_path / "data", published=True)
    found = carried_out("trace", data, tiny_model("t5", *"ABC"), tmp_path / "run")
    assert found.task_metrics == TITLES
    assert found.protocol["tasks"][7]["metric"] == "sari"
    file = tmp_path / "run" / "tasks" / "08-20Minuten" / "predictions" / "03-MeetingBank.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
    assert sum(line["score"] for line in lines) / 2 == found.matrix[-1][2]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "ROUGE-L: MeetingBank; edit similarity: Py150; first character: ScienceQA" in page
    assert 'title="20Minuten: SARI"' in page
    assert "Scores in percent" in page


def test_decoder_only_hosts_learn_them_too(tmp_path, tiny_model):
    # FOMC's prompt leaves no room in 64 positions; these do.
    data = write_trace(tmp_path / "data", published=False)
    stream = tmp_path / "stream.yaml"
    entries = [
        f"  - {{name: {name}, train: data/{name}/train.jsonl, test: data/{name}/test.jsonl, metric: {metric}}}"
        for name, metric in zip(PROMPTS, METRICS, strict=True)
        if name in ("Py150", "NumGLUE-cm", "20Minuten")
    ]
    stream.write_text("\n".join(["tasks:", *entries]))
    found = carried_out(str(stream), None, tiny_model("llama"), tmp_path / "run", max_source_length=50)
    assert found.tasks == ["Py150", "NumGLUE-cm", "20Minuten"]
    assert data.exists()


def test_the_table_names_the_metric_of_each_column(tmp_path, tiny_model, nacre: Call):
    write_trace(tmp_path, published=True)
    said = nacre(
        *("run", "--method", "seq_lora", "--stream", "NumGLUE-cm,20Minuten", "--data", tmp_path, "--limit-train", 2),
        *("--model", tiny_model("t5"), "--output", tmp_path / "run", "--limit-test", 2),
        *("--set", "optim.max_source_length=64", "--set", "optim.max_target_length=5"),
    )
    assert said.code == 0, said.err
    assert "seq_lora: scores in %" in said.out
    lines = [line.split() for line in said.out.splitlines()]
    place = lines.index(["NumGLUE-cm", "20Minuten"])
    assert lines[place + 1] == ["after", "number", "SARI"]


# SuperNI.


def test_superni_in_the_schema_of_sapt(tmp_path):
    name = "task1572_samsum_summary"
    (task,) = load_tasks([name], write_superni(tmp_path, name))
    assert task.metric == "rouge_l"
    assert task.labels is None
    assert task.test == (
        Row(text("test", 0), "a cat"),
        Row(text("test", 1), "the dog .", ("a dog",)),
        Row(text("test", 2), "a cat"),
    )
    example = task.examples("test")[1]
    assert example.input == (
        "Definition: Name the animal. One is enough.\n\nNow complete the following example -\n"
        f"Input: {text('test', 1)}\nOutput:"
    )
    assert (example.text, example.target) == (text("test", 1), "the dog .")
    assert task.source["not_used"] == {"validation": "its rows are the test rows"}
    assert task.source["carved"]["rows"] == 1


def test_any_task_in_that_schema_has_that_prompt(tmp_path):
    write_superni(tmp_path, "task1_ours")
    (task,) = load_tasks(["task1_ours"], tmp_path)
    assert task.template.instruction.startswith("Definition: Name the animal.")
    assert task.metric == "exact_match"


def test_superni_in_nacres_layout(tmp_path):
    name = "task748_glucose_reverse_cause_event_detection"
    rows = [{"input": text("train", n), "output": "a dog", "outputs": ["a dog", "the dog", "a dog"]} for n in range(20)]
    for split in ("train", "test"):
        own = rows if split == "train" else [{"input": "the sky", "output": "a cow"}]
        put(tmp_path / name / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in own))
    put(tmp_path / name / "task.json", json.dumps({"definition": ["Name it."], "metric": "ROUGE-L (SAPT); or another"}))
    (task,) = load_tasks([name], tmp_path)
    assert (task.metric, task.source["metric_note"]) == ("rouge_l", "ROUGE-L (SAPT); or another")
    assert task.train[0].accepted == ("a dog", "the dog")
    assert task.examples("test")[0].input == (
        "Definition: Name it.\n\nNow complete the following example -\nInput: the sky\nOutput:"
    )
    (tmp_path / name / "task.json").unlink()
    with pytest.raises(DataError, match="begins with the task's definition, which is missing"):
        load_tasks([name], tmp_path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"input": "x", "output": []}, "field 'output' must be a string or a number, not []"),
        ({"input": "x", "output": ["a", None]}, "field 'output' must be a string or a number, not null"),
        ({"input": "x", "output": ["a", " "]}, "field 'output' is empty"),
        ({"input": "x", "output": "a", "outputs": "b"}, "field 'outputs' must be a list of answers, not 'b'"),
    ],
)
def test_bad_references(tmp_path, row, says):
    put(tmp_path / "mine" / "train.jsonl", json.dumps({"input": "w", "output": "v"}) + "\n" + json.dumps(row))
    put(tmp_path / "mine" / "test.jsonl", json.dumps({"input": "w", "output": "v"}))
    with pytest.raises(DataError) as caught:
        load_tasks(["mine"], tmp_path)
    assert str(caught.value) == f"{tmp_path / 'mine' / 'train.jsonl'}, line 2: {says}."


def test_references_are_in_the_protocol_and_change_nothing_without_any(tmp_path, tiny_model):
    hashes = []
    for number, outputs in enumerate((["a dog"], ["a dog", "a cow"])):
        folder = tmp_path / str(number)
        rows = [{"input": text("train", row), "output": "a dog", "outputs": outputs} for row in range(12)]
        put(folder / "mine" / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        put(folder / "mine" / "test.jsonl", json.dumps({"input": "w", "output": "v"}))
        made = carried_out("mine", folder, tiny_model("t5"), folder / "run", limit_train=None)
        hashes.append(made.protocol["tasks"][0]["hash"]["train"])
        assert "text_cue" not in made.protocol["tasks"][0]["template"]
        if number == 0:
            (task,) = load_tasks(["mine"], folder)
            assert hashes[0] == hash_of([[row.text, row.target] for row in task.train])
    assert hashes[0] != hashes[1]


def test_superni_runs(tmp_path, tiny_model):
    for task in SUPERNI[:2]:
        write_superni(tmp_path, task.name)
    stream = [task.name for task in SUPERNI[:2]]
    found = carried_out(stream, tmp_path, tiny_model("t5"), tmp_path / "run")
    assert found.task_metrics == ["ROUGE-L", "ROUGE-L"]


# Somebody's own stream.


def own_stream(folder: Path, **changes: Any) -> Path:
    """A stream file of two tasks, with a CSV, a Parquet and a JSON-lines file. changes: of the first task; None takes a
    key away."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    rows = [{"question": text("train", n), "desk": ("bills", "goods")[n % 2], "also": []} for n in range(12)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "desk"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist([{"question": "the sky ?", "desk": "goods"}] * 2), folder / "test.parquet")
    replies = [{"prompt": f"{text('train', n)} ?", "completion": " a dog runs away"} for n in range(12)]
    put(folder / "more" / "replies.jsonl", "".join(json.dumps(row) + "\n" for row in replies))
    put(folder / "more" / "replies.test.jsonl", json.dumps({"prompt": "who ?", "completion": " a cow runs away"}))
    first = {
        "name": "desks",
        "train": "train.csv",
        "test": "test.parquet",
        "fields": {"text": "question", "label": "desk"},
        "instruction": "Which desk ?",
        "labels": ["goods", "bills"],
        "metric": "macro-F1",
        **changes,
    }
    second = {"name": "replies", "train": "more/replies.jsonl", "test": "more/replies.test.jsonl", "metric": "bleu"}
    content = {"name": "helpdesk", "tasks": [{k: v for k, v in first.items() if v is not None}, second]}
    put(folder / "stream.yaml", yaml.safe_dump(content))
    return folder / "stream.yaml"


def test_own_stream_file(tmp_path):
    stream = read_stream(own_stream(tmp_path))
    assert (stream.name, stream.task_names) == ("helpdesk", ("desks", "replies"))
    desks, replies = stream.load()
    assert desks.labels == ("goods", "bills")
    assert desks.metric == "macro_f1"
    assert desks.examples("test")[0].input == "Which desk ?\nOption: goods, bills \nthe sky ?\nAnswer:"
    assert len(desks.train) + len(desks.validation) == 12
    assert desks.source["carved"]["seed"] == 0
    assert desks.source["files"]["train"]["file"] == "train.csv"
    assert str(tmp_path) not in json.dumps(dict(desks.source))
    assert (replies.labels, replies.metric) == (None, "bleu")
    assert replies.examples("test")[0].input == "who ?"


def test_own_stream_runs_from_anywhere(tmp_path, tiny_model, monkeypatch, nacre: Call):
    own_stream(tmp_path / "streams")
    monkeypatch.chdir(tmp_path)
    found = carried_out(
        "streams/stream.yaml", None, tiny_model("llama", "goods", "bills"), tmp_path / "run", max_source_length=40
    )
    assert found.stream == "helpdesk"
    assert found.task_metrics == ["macro-F1", "BLEU"]
    monkeypatch.chdir("/")
    again = nacre("run", tmp_path / "run" / "recipe.yaml", "--output", tmp_path / "again", "--json")
    assert again.code == 0, again.err
    repeated = json.loads(again.out)
    assert (repeated["matrix"], repeated["protocol_hash"]) == (found.matrix, found.protocol_hash)


def test_own_stream_is_planned_without_a_model(tmp_path, nacre: Call):
    file = own_stream(tmp_path)
    said = nacre("run", "--method", "seq_lora", "--stream", file, "--dry-run", "--json")
    assert said.code == 0, said.err
    plan = json.loads(said.out)
    assert [stage["name"] for stage in plan["stages"]] == ["desks", "replies"]
    assert plan["missing"] == []
    assert plan["recipe"]["output"] == str(Path("runs/helpdesk-seq_lora-seed0").resolve())


def test_own_stream_takes_no_data_folder(tmp_path):
    file = own_stream(tmp_path)
    with pytest.raises(RecipeError, match=r"names its own files and takes no --data"):
        Recipe(method="seq_lora", stream=str(file), data=str(tmp_path)).tasks()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": "bleu"}, "task 1: there is no key 'metrics'. Did you mean metric?"),
        ({"name": None}, "task 1, name: a string is expected, not None."),
        ({"name": "a/b"}, "Task name 'a/b' cannot be used"),
        ({"name": "replies"}, "Task 'replies' is named twice"),
        ({"train": None}, "task 'desks', train: the name of a file is expected, not None."),
        ({"test": "tests.csv"}, "task 'desks', test: the file"),
        ({"metric": "rouge_z"}, "task 'desks', metric: there is no metric 'rouge_z'. Did you mean rouge_l?"),
        ({"metric": "as in the paper"}, "task 'desks', metric: there is no metric 'as in the paper'."),
        ({"labels": [True, False]}, "task 'desks', labels: YAML reads yes, no, on, off, true and false without quotes"),
        ({"labels": "goods"}, "task 'desks', labels: a list of label strings is expected, not 'goods'."),
        ({"labels": ["goods"]}, "train.csv, line 2: label 'bills' is not in the label set, which is 'goods'."),
        ({"fields": {"text": "q", "label": "desk"}}, "train.csv: the columns are 'question', 'desk'; expected are 'q'"),
        ({"options": "yes"}, "task 'desks', options: true or false is expected, not 'yes'."),
        ({"kind": "chat"}, "task 'desks', kind: 'answer' or 'text' is expected, not 'chat'."),
        ({"instruction": 3}, "task 'desks', instruction: a string is expected, not 3."),
    ],
)
def test_mistakes_in_a_stream_file(tmp_path, changes, says):
    file = own_stream(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_stream(file).load()
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("tasks: [", "is not valid YAML"),
        ("- a", "'tasks', a list of at least one task, is expected"),
        ("tasks: []", "'tasks', a list of at least one task, is expected"),
        ("tasks: [a]", "task 1: keys and values such as 'name' and 'train' are expected, not 'a'"),
        ("name: x\ntask: 1\ntasks: [{}]", "there is no key 'task'. Did you mean tasks?"),
    ],
)
def test_what_is_no_stream_file(tmp_path, content, says):
    put(tmp_path / "stream.yaml", content)
    with pytest.raises(DataError, match=r"stream\.yaml") as caught:
        read_stream(tmp_path / "stream.yaml")
    assert says in str(caught.value)


def test_a_stream_file_that_is_not_there(tmp_path, nacre: Call):
    said = nacre("run", "--method", "seq_lora", "--stream", tmp_path / "none.yaml")
    assert said.code == 2
    assert f"Stream file {tmp_path / 'none.yaml'} cannot be read: No such file or directory." in said.err


def test_own_references(tmp_path):
    rows = [{"q": text("train", n), "a": "a dog", "all": ["a dog", "the dog"]} for n in range(12)]
    put(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    put(tmp_path / "test.jsonl", json.dumps({"q": "who", "a": ["a cow", "the cow"]}))
    put(
        tmp_path / "s.yml",
        "tasks: [{name: own, train: rows.jsonl, test: test.jsonl, fields: {text: q, label: a, references: all}}]",
    )
    (task,) = read_stream(tmp_path / "s.yml").load()
    assert task.labels is None
    assert task.train[0].accepted == ("a dog", "the dog")
    assert task.test[0].accepted == ("a cow", "the cow")


# TRL's rows of a prompt and a completion.


@pytest.mark.parametrize("completion", [" a dog", "a dog"])
def test_prompt_and_completion_join_as_one_text(completion):
    """A completion that brings its white space is joined as TRL joins it; one that does not is kept apart."""
    family = tiny_host("llama").family
    texts: list[str] = []
    ids = family.source_ids
    family.source_ids = lambda text: texts.append(text) or ids(text)
    family.encode_target(Example("", "the sky is", "", completion), Lengths(20, 5))
    assert texts[1] == "the sky is a dog"
    texts.clear()
    family.encode_target(Example("", "the sky is", " :\n", completion.strip()), Lengths(20, 5))
    assert texts[1] == " :\na dog"


# The data at hand.

needs_data = pytest.mark.skipif(
    "NACRE_DATA" not in os.environ, reason="NACRE_DATA does not name the folder with the benchmark data"
)


@needs_data
@pytest.mark.parametrize(
    ("stream", "folder", "cap"),
    [("trace", "trace", 1024), ("superni1", "superni", 512), ("instruction", "instruction", 256)],
)
def test_delivered_streams_run(stream, folder, cap, tmp_path, tiny_model):
    data = Path(os.environ["NACRE_DATA"]) / folder
    found = carried_out(stream, data, tiny_model("t5", *"ABC"), tmp_path / "run", max_source_length=cap)
    assert found.tasks == list(get_stream(stream).tasks)


@needs_data
def test_delivered_rows_are_those_on_record():
    root = Path(os.environ["NACRE_DATA"])
    for folder, known in (("trace", TRACE), ("superni", SUPERNI), ("instruction", INSTRUCTION)):
        tasks = load_tasks([task.name for task in known], root / folder)
        for task, own in zip(tasks, known, strict=True):
            card = json.loads((root / folder / task.name / "task.json").read_text(encoding="utf-8"))
            assert {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)} == card[
                "rows"
            ]
            assert (task.metric, task.labels) == (own.metric, own.labels)
            assert "carved" not in task.source
            assert "not_used" not in task.source
    assert {task.name for task in SUPERNI} == set(get_stream("superni1").tasks) == set(get_stream("superni2").tasks)


@needs_data
@pytest.mark.parametrize("name", PROMPTS)
def test_delivered_prompts_are_put_back_whole(name):
    folder = Path(os.environ["NACRE_DATA"]) / "trace"
    (task,) = load_tasks([name], folder)
    lines = gzip.decompress((folder / name / "test.jsonl.gz").read_bytes()).decode().split("\n")
    inputs = [json.loads(line)["input"] for line in lines if line]
    assert [example.input for example in task.examples("test")] == inputs
    assert (task.examples("test")[0].before, task.examples("test")[0].after) == PROMPTS[name]
