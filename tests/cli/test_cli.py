"""The command line as a person or a program meets it: what it prints, what it leaves behind, how it says no.

Most cases call ``main()`` in this process, because a process of its own spends seconds on importing torch.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import DistilBertConfig

import nacre as package
from helpers.command import Call, Outcome, assert_one_line_error, contents, one_line
from helpers.tiny import write_task
from nacre.evaluation.scoring import is_right
from nacre.files import hash_of, sha256
from nacre.records.reading import read_record
from nacre.records.view import view_of
from nacre.registry import METHODS, MODIFIERS
from nacre.report import render
from nacre.tasks.published.streams import stream_names

TASKS = {"animals": ("yes", "no"), "plants": ("yes", "no", "maybe"), "tools": ("no", "yes")}
NAMES = list(TASKS)
STREAM = ",".join(NAMES)
LEARNS = ("--set", "optim.learning_rate=0.01", "--set", "optim.batch_size=4", "--set", "optim.epochs=6")
QUICK = ("--set", "optim.learning_rate=0.01", "--limit-train", "4")


Model = Callable[[str], Path]


def process(*arguments: object, folder: Path | None = None) -> Outcome:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "nacre", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three tasks. Nobody writes into it."""
    folder = tmp_path_factory.mktemp("data")
    for name, labels in TASKS.items():
        write_task(folder, name, labels)
    return folder


@pytest.fixture(scope="module")
def started(data: Path, tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run that has finished, in a process of its own, and what that process said. Nobody writes into it."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    said = process(
        *("run", "--method", "seq_ft", "--stream", STREAM, "--data", data, "--model", tiny_model("t5")),
        *("--output", output, "--seed", 3, *LEARNS, "--json"),
    )
    return output, said


@pytest.fixture(scope="module")
def finished(started: tuple[Path, Outcome]) -> Path:
    assert started[1].code == 0, started[1].err
    return started[0]


@pytest.fixture
def carry_out(nacre: Call, data: Path, tiny_model: Model, tmp_path: Path) -> Callable[..., Path]:
    """``carry_out("inc_lora", ...)``: the folder of another finished run."""

    def call(method: str, *options: object, model: str = "t5", stream: str = STREAM) -> Path:
        output = tmp_path / f"{method}-{len(list(tmp_path.iterdir()))}"
        said = nacre(
            *("run", "--method", method, "--stream", stream, "--data", data, "--model", tiny_model(model)),
            *("--output", output, "--seed", 3, *(options or QUICK)),
        )
        assert said.code == 0, said.err
        return output

    return call


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def protocol(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "protocol.json").read_text())
    return found


# Help, sheets and lists.


def test_help_needs_neither_torch_nor_transformers() -> None:
    """Seconds are measured by the long tests; here it is what costs them: the modules."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nacre", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert {"run", "methods", "streams", "report"} <= set(done.stdout.split())
    modules = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    packages = {module.partition(".")[0] for module in modules}
    assert {"nacre", "typer"} <= packages
    assert not packages & {"torch", "transformers", "accelerate", "numpy", "datasets", "tokenizers", "safetensors"}
    assert len(modules) < 450


def test_version(nacre: Call) -> None:
    assert nacre("--version") == (0, f"nacre {package.__version__}\n", "")


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("run", "--help"), ("methods", "-h"), ("report", "-h")])
def test_every_command_has_help(nacre: Call, arguments: tuple[str, ...]) -> None:
    said = nacre(*arguments)
    assert said.code == 0
    assert "Usage:" in said.out


def test_methods(nacre: Call) -> None:
    said = nacre("methods")
    assert said.code == 0
    methods, modifiers = said.out.split("Modifiers, as in seq_lora+migu:")
    names = re.findall(r"^(\w+) {2,}\S", methods, re.MULTILINE)
    assert {"seq_ft", "seq_lora", "inc_lora", "am_lora", "joint", "independent"} <= set(names)
    assert sorted(names) == METHODS.names()
    assert re.findall(r"^\+(\w+) ", modifiers, re.MULTILINE) == MODIFIERS.names()
    listed = json.loads(nacre("methods", "--json").out)
    assert [entry["name"] for entry in listed["methods"]] == METHODS.names()
    assert [entry["name"] for entry in listed["modifiers"]] == MODIFIERS.names()
    traits = {entry["name"]: entry for entry in listed["methods"]}
    assert traits["independent"]["task identity at test"] is True
    assert traits["am_lora"]["task identity at test"] is False
    assert traits["am_lora"]["foldable"] is False
    assert traits["inc_lora"]["foldable"] is True


def test_the_sheet_of_a_method(nacre: Call) -> None:
    said = nacre("methods", "am_lora")
    assert said.code == 0
    assert said.out.startswith("am_lora: AM-LoRA")
    assert "g = softmax(z_0 .. z_t)" in said.out
    assert "  sparsity = 1e-05" in said.out
    sheet = json.loads(nacre("methods", "am_lora", "--json").out)
    assert sheet["parameters"]["rank"] == 8
    assert sheet["parameters"]["roles"] == ["query", "value"]
    assert sheet["traits"]["rehearsal-free"] is True
    assert sheet["sources"] == ["arXiv 2409.19611"]


@pytest.mark.parametrize("name", list(METHODS.names()))
def test_every_method_has_a_sheet(nacre: Call, name: str) -> None:
    sheet = json.loads(nacre("methods", name, "--json").out)
    assert sheet["name"] == name
    assert {"name", "title", "sheet", "parameters", "learning_rate", "traits", "sources"} <= set(sheet)
    shown = nacre("methods", name).out
    assert all(f"  {key} = " in shown for key in sheet["parameters"])


def test_streams(nacre: Call) -> None:
    said = nacre("streams")
    assert said.code == 0
    listed = json.loads(nacre("streams", "--json").out)
    assert [stream["name"] for stream in listed] == list(stream_names())
    assert all(f"{' -> '.join(stream['tasks'])}\n" in said.out for stream in listed)


def test_a_published_order(nacre: Call) -> None:
    order = (
        "mnli -> cb -> wic -> copa -> qqp -> boolqa -> rte -> imdb -> yelp -> amazon -> sst2 -> dbpedia -> agnews "
        "-> multirc -> yahoo"
    )
    assert order in nacre("streams", "order4").out
    (stream,) = json.loads(nacre("streams", "order4", "--json").out)
    assert stream["name"] == "order4"
    assert stream["tasks"] == order.split(" -> ")
    assert "AM-LoRA" in stream["source"]


# What a run leaves behind.


def test_json_is_all_that_standard_output_holds(started: tuple[Path, Outcome]) -> None:
    output, said = started
    assert said.code == 0
    assert said.out == (output / "results.json").read_text()
    assert "animals -> plants -> tools, seed 3" in one_line(said.err)
    assert "after task 3:" in said.err


def test_results(finished: Path) -> None:
    found = results(finished)
    read_record(finished / "results.json")
    assert found["schema"] == "nacre.results/2"
    assert found["tasks"] == NAMES
    assert (found["method"], found["stream"], found["seed"], found["metric"]) == ("seq_ft", "own", 3, "exact_match")
    for name in ("matrix", "valid_answers"):
        assert [len(row) for row in found[name]] == [3, 3, 3, 3]
        assert all(0 <= score <= 1 for row in found[name] for score in row)
    assert len({score for row in found["matrix"] for score in row}) > 2  # the tests below see different scores
    matrix = found["matrix"]
    assert found["average_accuracy"] == pytest.approx(sum(matrix[3]) / 3)
    assert found["learning_accuracy"] == pytest.approx((matrix[1][0] + matrix[2][1] + matrix[3][2]) / 3)
    assert found["pooled_accuracy"] == pytest.approx(found["average_accuracy"])  # as many test rows in each task
    transfer = (matrix[3][0] - matrix[1][0] + matrix[3][1] - matrix[2][1]) / 2
    assert found["backward_transfer"] == pytest.approx(transfer)
    gain = (matrix[1][1] - matrix[0][1] + matrix[2][2] - matrix[0][2]) / 2
    assert found["forward_transfer"] == pytest.approx(gain)
    best = max(matrix[1][0], matrix[2][0])
    assert found["forgetting"] == pytest.approx((best - matrix[3][0] + matrix[2][1] - matrix[3][1]) / 2)
    assert len(found["seconds"]["train"]) == 3
    assert len(found["seconds"]["evaluate"]) == 4
    assert all(value > 0 for value in [*found["seconds"]["train"], *found["seconds"]["evaluate"]])
    assert found["trainable_parameters_per_task"] == [found["trainable_parameters"]] * 3
    assert found["peak_rss_bytes"] > 50_000_000
    assert found["optim"] == yaml.safe_load((finished / "recipe.yaml").read_text())["optim"]
    assert found["environment"] == json.loads((finished / "environment.json").read_text())
    assert datetime.fromisoformat(found["finished"]).utcoffset() == timedelta(0)


def test_a_page_shows_the_losses_and_the_answers(finished: Path) -> None:
    record = read_record(finished / "results.json")
    view = view_of(finished, record)
    assert [(curve.name, curve.steps) for curve in view.losses] == [(name, 18) for name in NAMES]
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    read = [(event["step"], event["loss"]) for event in events if event["event"] == "step"]
    assert [reading for curve in view.losses for reading in curve.readings] == read
    assert [samples.task for samples in view.samples] == NAMES
    for samples, score in zip(view.samples, record.matrix[-1], strict=True):
        assert {answer.score for answer in samples.worst} <= {0.0}
        assert {answer.score for answer in samples.best} <= {1.0}
        assert bool(samples.worst) is (score < 1)
        assert bool(samples.best) is (score > 0)
        assert all(answer.input for answer in (*samples.worst, *samples.best))
    assert (finished / "report.html").read_text() == render([view])


def test_files_of_a_run(finished: Path, data: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    files = {"recipe.yaml", "protocol.json", "environment.json", "checks.json", "events.jsonl", "results.json"}
    assert names == {*files, "report.html", "tasks"}
    folders = sorted(path.name for path in (finished / "tasks").iterdir())
    assert folders == ["00-before", "01-animals", "02-plants", "03-tools"]
    checks = json.loads((finished / "checks.json").read_text())
    assert list(checks["tasks"]) == sorted(NAMES)
    assert checks["tasks"]["plants"]["source"]["files"]["test"]["sha256"] == sha256(data / "plants" / "test.jsonl")
    assert json.loads((finished / "environment.json").read_text())["packages"]["torch"]
    assert "<html" in (finished / "report.html").read_text()
    for folder in folders:
        listed = json.loads((finished / "tasks" / folder / "manifest.json").read_text())["sha256"]
        there = contents(finished / "tasks" / folder)
        assert listed == {name: digest for name, digest in there.items() if digest and name != "manifest.json"}


def test_predictions_agree_with_the_matrix(finished: Path, data: Path) -> None:
    matrix = results(finished)["matrix"]
    valid = results(finished)["valid_answers"]
    for row, folder in enumerate(sorted((finished / "tasks").iterdir())):
        files = sorted((folder / "predictions").iterdir())
        assert [file.name for file in files] == ["01-animals.jsonl.gz", "02-plants.jsonl.gz", "03-tools.jsonl.gz"]
        for column, (name, file) in enumerate(zip(NAMES, files, strict=True)):
            rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
            asked = [json.loads(line)["label"] for line in (data / name / "test.jsonl").read_text().splitlines()]
            assert [entry["target"] for entry in rows] == asked
            texts = [json.loads(line)["text"] for line in (data / name / "test.jsonl").read_text().splitlines()]
            # The input stands where a task is measured for the last time.
            assert [entry.get("input") for entry in rows] == (texts if row == len(NAMES) else [None] * len(texts))
            assert [entry["right"] for entry in rows] == [is_right(entry["answer"], entry["target"]) for entry in rows]
            assert matrix[row][column] == sum(entry["right"] for entry in rows) / len(rows)
            assert valid[row][column] == sum(entry["answer"] in TASKS[name] for entry in rows) / len(rows)


def test_events(finished: Path) -> None:
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert (events[0]["event"], events[-1]["event"]) == ("run", "finished")
    assert [event["name"] for event in events if event["event"] == "stage"] == NAMES
    last = [event for event in events if event["event"] == "step" and event["step"] == event["steps"]]
    assert [event["steps"] for event in last] == [18, 18, 18]  # 12 rows, 4 a step, 6 epochs
    rows = {event["number"]: event["scores"] for event in events if event["event"] == "row"}
    matrix = results(finished)["matrix"]
    assert [rows[number] for number in (1, 2, 3)] == matrix[1:]


def test_row_0_is_told_too(finished: Path) -> None:
    """What the pretrained model can do is measured, so it is shown as every other row is."""
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [event["number"] for event in events if event["event"] == "row"] == [0, 1, 2, 3]


# The same run again.


def test_the_recipe_says_everything(finished: Path, data: Path, tiny_model: Model) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["method"] == "seq_ft"
    assert recipe["stream"] == NAMES
    assert (recipe["model"], recipe["data"], recipe["output"]) == (str(tiny_model("t5")), str(data), str(finished))
    assert (recipe["seed"], recipe["identity"], recipe["limit_train"]) == (3, "none", None)
    assert recipe["optim"]["learning_rate"] == 0.01
    assert recipe["optim"]["max_source_length"] == 512
    assert recipe["evaluation"]["batch_size"] == 64
    assert recipe["set"] == {}


def test_a_finished_run_says_so(nacre: Call, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(finished)
    said = nacre("run", finished / "recipe.yaml")
    assert said.code == 0
    assert "is finished already; nothing was run." in one_line(said.out)
    assert "seq_ft: accuracy in %" in said.out
    assert nacre("run", finished / "recipe.yaml", "--json").out == (finished / "results.json").read_text()
    assert contents(finished) == before
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_repeats_the_run(nacre: Call, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "recipe.yaml", tmp_path / "copy.yaml")
    said = nacre("run", tmp_path / "copy.yaml", "--output", tmp_path / "again", "--json")
    assert said.code == 0
    again, first = json.loads(said.out), results(finished)
    different = {key for key in first if again[key] != first[key]}
    # A record is hashed with its times; every score of the matrix is the same number.
    assert different <= {"seconds", "peak_rss_bytes", "sha256", "finished"}
    for name in ("01-animals", "02-plants", "03-tools"):
        files = [run / "tasks" / name / "adapter.safetensors" for run in (finished, tmp_path / "again")]
        assert sha256(files[0]) == sha256(files[1])


def test_a_run_that_was_moved_is_still_finished(nacre: Call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    said = nacre("run", tmp_path / "moved" / "recipe.yaml", "--output", tmp_path / "moved")
    assert said.code == 0
    assert "is finished already" in one_line(said.out)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--seed", "4"), "seed is 3 there and 4 here"),
        (("--set", "optim.batch_size=3"), "optim.batch_size is 4 there and 3 here"),
        (("--identity", "full"), 'identity is "none" there and "full" here'),
        (("--limit-test", "2"), "limit_test is null there and 2 here"),
        (("--method", "joint"), 'method is "seq_ft" there and "joint" here'),
        (("--stream", "animals,tools,plants"), 'stream[2] is "plants" there and "tools" here'),
    ],
)
def test_other_settings_in_the_same_folder(nacre: Call, finished: Path, options: tuple[str, ...], key: str) -> None:
    before = contents(finished)
    said = nacre("run", finished / "recipe.yaml", *options, "--output", finished)
    assert_one_line_error(said, f"Error: '{finished}' was begun with other settings: ", key)
    assert contents(finished) == before


# Numbers that can be compared.


def test_protocols(carry_out: Callable[..., Path], finished: Path) -> None:
    whole = carry_out("am_lora", "--set", "rank=2", "--set", "optim.batch_size=12")
    assert protocol(whole) == protocol(finished)  # another method and other training settings, the same protocol
    assert protocol(whole)["hash"] == hash_of(protocol(whole)["protocol"]) == results(finished)["protocol_hash"]

    fewer = carry_out("am_lora", "--set", "optim.batch_size=12", "--limit-test", "4")
    assert protocol(fewer)["hash"] != protocol(finished)["hash"]
    assert protocol(fewer)["protocol"]["limit_test"] == 4
    assert [task["rows"]["test"] for task in protocol(fewer)["protocol"]["tasks"]] == [4, 4, 4]

    told = carry_out("am_lora", "--set", "optim.batch_size=12", "--identity", "full")
    assert protocol(told)["hash"] != protocol(finished)["hash"]
    assert protocol(told)["protocol"]["identity in the prompt"] == "full"
    assert {task["template"]["identity"] for task in protocol(told)["protocol"]["tasks"]} == {"full"}

    hashes = {protocol(run)["hash"] for run in (finished, fewer, told)}
    assert len(hashes) == 3


def test_a_protocol_sees_what_stands_in_the_rows(
    nacre: Call, finished: Path, data: Path, tiny_model: Model, tmp_path: Path
) -> None:
    """One test label in a data folder of the same names: the hash is another one, and continuing is refused."""
    shutil.copytree(data, tmp_path / "data")
    file = tmp_path / "data" / "tools" / "test.jsonl"
    lines = file.read_text().splitlines()
    row = json.loads(lines[-1])
    row["label"] = "yes" if row["label"] == "no" else "no"
    file.write_text("\n".join([*lines[:-1], json.dumps(row)]) + "\n")
    output = tmp_path / "run"
    command: tuple[object, ...] = (
        "run",
        "--method",
        "inc_lora",
        "--stream",
        STREAM,
        "--data",
        tmp_path / "data",
        *QUICK,
    )
    command += ("--model", tiny_model("t5"), "--output", output)
    assert nacre(*command).code == 0
    assert protocol(output)["hash"] != protocol(finished)["hash"]

    (output / "results.json").unlink()  # now it is an unfinished run, whose data go back to what they were
    shutil.copy(data / "tools" / "test.jsonl", file)
    before = contents(output)
    said = nacre(*command)
    assert_one_line_error(said, "was begun with other data, prompts or model", "tasks[3].hash.test")
    assert contents(output) == before


# Curricula in which not every entry of the matrix is defined.


def test_joint(carry_out: Callable[..., Path]) -> None:
    found = results(carry_out("joint", *LEARNS))
    nothing = [None, None, None]
    for name in ("matrix", "valid_answers"):
        assert found[name][1:3] == [nothing, nothing]
        assert all(score is not None for score in found[name][0] + found[name][3])
    assert found["average_accuracy"] == pytest.approx(sum(found["matrix"][3]) / 3)
    assert found["average_accuracy"] > 0
    assert found["pooled_accuracy"] == pytest.approx(found["average_accuracy"])
    for name in ("learning_accuracy", "forgetting", "backward_transfer", "forward_transfer"):
        assert found[name] is None
    assert found["seconds"]["train"][:2] == [None, None]
    assert found["seconds"]["evaluate"][1:3] == [None, None]
    assert found["trainable_parameters_per_task"] == [None, None, found["trainable_parameters"]]


def test_independent(carry_out: Callable[..., Path]) -> None:
    run = carry_out("independent", *LEARNS)
    found = results(run)
    for name in ("matrix", "valid_answers"):
        before, first, second, third = found[name]
        assert None not in before + third
        assert (first[1:], second[2:]) == ([None, None], [None])
        assert (first, second) == ([third[0], None, None], [third[0], third[1], None])
    assert (found["forgetting"], found["backward_transfer"], found["forward_transfer"]) == (0, 0, None)
    assert found["average_accuracy"] == found["learning_accuracy"] == pytest.approx(sum(found["matrix"][3]) / 3)
    measured = [sorted(path.name for path in (run / "tasks" / folder / "predictions").iterdir())
                for folder in ("01-animals", "03-tools")]  # fmt: skip
    assert measured == [["01-animals.jsonl.gz"], ["01-tools.jsonl.gz"]]
    assert found["stored_parameters"] == 3 * found["trainable_parameters"]


def test_one_task_of_ones_own(carry_out: Callable[..., Path]) -> None:
    run = carry_out("seq_lora", "--set", "stream=[animals]", *QUICK)
    found = results(run)
    assert [len(row) for row in found["matrix"]] == [1, 1]
    assert (found["forgetting"], found["backward_transfer"], found["forward_transfer"]) == (None, None, None)
    assert found["average_accuracy"] == found["learning_accuracy"] == found["matrix"][1][0]


def test_a_decoder_only_model(carry_out: Callable[..., Path]) -> None:
    run = carry_out("inc_lora", "--set", "optim.max_target_length=4", *QUICK, model="llama", stream="animals,tools")
    assert protocol(run)["protocol"]["model"]["family"] == "decoder-only"
    assert [len(row) for row in results(run)["matrix"]] == [2, 2, 2]


# Errors: exit code 2, one line that names the place and what would be right, and nothing written.


@pytest.fixture
def refused(
    nacre: Call, tmp_path: Path, data: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """``refused(["--method", "am_lro"], "am_lora")``: the run with these options fails with that in its one line.

    Options replace those of a run that is right (None: left out). Nothing under the test's folder changes; the
    working directory lies in it.
    """

    def call(options: dict[str, object], *parts: object, settings: tuple[str, ...] = (), recipe: object = None) -> None:
        usual: dict[str, object] = {"method": "inc_lora", "stream": STREAM, "data": data, "model": tiny_model("t5")}
        usual["output"] = tmp_path / "out"
        given = {key: value for key, value in {**usual, **options}.items() if value is not None}
        arguments: list[object] = ["run"] if recipe is None else ["run", recipe]
        for key, value in given.items():
            arguments += [f"--{key.replace('_', '-')}", value]
        for setting in settings:
            arguments += ["--set", setting]
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        before = contents(tmp_path)
        said = nacre(*arguments)
        assert_one_line_error(said, *parts)
        assert contents(tmp_path) == before

    return call


Refused = Callable[..., None]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"method": "am_lro"}, ("There is no method 'am_lro'. Did you mean am_lora", "Known: ", "seq_ft")),
        ({"method": "zzz"}, ("There is no method 'zzz'. Known: adapter, am_lora", "inc_lora")),
        ({"method": None}, ("A run needs a method: --method NAME",)),
        ({"data": "nowhere"}, ("The data folder nowhere does not exist.",)),
        ({"model": "./nowhere"}, ("Model folder './nowhere' does not exist.",)),
        ({"model": "no-such-model-anywhere"}, ("Model 'no-such-model-anywhere' cannot be",)),
        ({"stream": "ordr1", "data": None}, ("There is no stream 'ordr1'. Did you mean order1",)),
        ({"stream": "demo"}, ("Stream 'demo' makes its own rows and takes no --data",)),
        ({"stream": "order1", "data": None}, ("Stream 'order1' needs --data: the folder that holds its tasks.",)),
        ({"stream": "order1"}, ("Task 'dbpedia' is not in ",)),
        ({"stream": "animals,animals"}, ("Task 'animals' is named twice",)),
        ({"stream": "animals,tols"}, ("Task 'tols' is not in ", "Did you mean tools")),
        ({"stream": "animals,../tools"}, ("Task name '../tools' cannot be used",)),
        ({"limit_test": 0}, ("limit_test = 0: it must be at least 1.",)),
        ({"limit_train": -3}, ("limit_train = -3: ",)),
        ({"seed": -1}, ("seed = -1: ",)),
        ({"identity": "all"}, ("identity = 'all': 'none', 'task' or 'full' is expected.",)),
    ],
    ids=str,
)
def test_a_wrong_option(refused: Refused, options: dict[str, object], parts: tuple[str, ...]) -> None:
    refused(options, *parts)


@pytest.mark.parametrize(
    ("method", "setting", "parts"),
    [
        ("inc_lora", "rnak=4", ("Method 'inc_lora' has no parameter 'rnak'. Did you mean rank",)),
        ("seq_ft", "rank=4", ("Method 'seq_ft' has no parameter 'rank'. It has no parameters.",)),
        ("inc_lora", "optim.learning_rat=1", ("there is no key 'optim.learning_rat'. Did you mean learning_rate",)),
        ("inc_lora", "evaluation.batch=1", ("there is no key 'evaluation.batch'. Did you mean batch_size",)),
        ("inc_lora", "limit_tset=4", ("'limit_tset'",)),
        ("inc_lora", "optm.epochs=4", ("'optm'",)),
        ("inc_lora", "optim.batch_size=0", ("optim.batch_size = 0: it must be at least 1.",)),
        ("inc_lora", "evaluation.batch_size=0", ("evaluation.batch_size = 0: it must be at least 1.",)),
        ("inc_lora", "optim.epochs=1.5", ("optim.epochs = 1.5: ",)),
        ("inc_lora", "optim.schedule=cosin", ("optim.schedule = 'cosin': ", "'constant', 'linear' or 'cosine'")),
        ("inc_lora", "optim.betas=[0.9,1]", ("optim.betas.1 = 1: ",)),
        ("inc_lora", "optim.betas=0.9", ("optim.betas = 0.9: ",)),
        ("inc_lora", "optim.warmup=1", ("optim.warmup = 1: ",)),
        ("inc_lora", "optim.learning_rate=0", ("optim.learning_rate = 0: ",)),
        ("inc_lora", "optim.learning_rate.x=0", ("optim.learning_rate",)),
        ("inc_lora", "optim=3", ("optim = 3: ",)),
        ("inc_lora", "seed.x=3", ("seed",)),
        ("inc_lora", "rank=0", ("rank: 0 is not a positive number",)),
        ("inc_lora", "rank=4611686018427387904", ("rank: 4611686018427387904 is above 65,536",)),
        ("lb_cl", "rank=65537", ("rank: 65537 is above 65,536",)),
        ("inc_lora", "rank=abc", ("inc_lora: rank = 'abc': a whole number is expected.",)),
        ("inc_lora", "rank=[4", ("--set rank=[4: the value is not valid YAML",)),
        ("inc_lora", "rank", ("--set rank: write KEY=VALUE",)),
        ("inc_lora", "=4", ("--set =4: write KEY=VALUE",)),
        ("inc_lora", "dropout=1", ("dropout: 1.0 is not in [0, 1).",)),
        ("inc_lora", "alpha=-1", ("alpha: -1.0 is not positive",)),
        ("am_lora", "sparsity=-1", ("-1.0", "negative")),
        ("inc_lora", "roles=[query, vlaue]", ("roles", "'vlaue'", "'value'")),
        ("inc_lora", "modules=[nowhere]", ("modules: no linear map of the model has a name that ends in 'nowhere'.",)),
    ],
)
def test_a_wrong_setting(refused: Refused, method: str, setting: str, parts: tuple[str, ...]) -> None:
    refused({"method": method}, *parts, settings=(setting,))


@pytest.mark.parametrize(("setting", "meant"), [("limit_tset=4", "limit_test"), ("optm.epochs=4", "optim")])
def test_a_misspelt_key_of_the_recipe(refused: Refused, setting: str, meant: str) -> None:
    """Such a key is taken for a parameter of the method, but it may have been meant as another."""
    refused({}, f"Did you mean {meant}", settings=(setting,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: [inc_lora", "Recipe '{path}' is not valid YAML: "),
        ("method: inc_lora\n\tseed: 1\n", "Recipe '{path}' is not valid YAML: "),
        (b"method: caf\xe9\n", "Recipe '{path}' is not valid YAML: "),
        ("- inc_lora\n- am_lora\n", "Recipe '{path}' must hold keys and values, such as 'method: am_lora'."),
        ("", "Recipe '{path}' must hold keys and values"),
        ("inc_lora", "Recipe '{path}' must hold keys and values"),
        ("method: inc_lora\nlimit_tset: 3\n", "Recipe '{path}', there is no key 'limit_tset'. Did you mean limit_test"),
        (
            "method: inc_lora\noptim: {epoch: 3}\n",
            "Recipe '{path}', there is no key 'optim.epoch'. Did you mean epochs",
        ),
        ("method: inc_lora\noptim: {batch_size: many}\n", "Recipe '{path}', optim.batch_size = 'many': "),
        ("method: inc_lora\noptim: 3\n", "Recipe '{path}', optim = 3: "),
        ("method: inc_lora\noptim:\n", "Recipe '{path}', optim = None: "),
        ("method: inc_lora\nmodel: 3\n", "Recipe '{path}', model = 3: "),
        ("method: inc_lora\nstream: 3\n", "Recipe '{path}', stream"),
        ("method: inc_lora\nset: 3\n", "Recipe '{path}', set = 3: "),
        ("method: inc_lora\n1: 3\n", "Recipe '{path}' cannot be read: line 2: a key must be a word, not '1'"),
        ("method: inc_lora\nset: {rnak: 3}\n", "Method 'inc_lora' has no parameter 'rnak'. Did you mean rank"),
        ("seed: 3\n", "A run needs a method"),
    ],
)
def test_a_wrong_recipe(refused: Refused, tmp_path: Path, text: str | bytes, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    refused({"method": None, "model": None, "stream": None}, says.replace("{path}", str(path)), recipe=path)


def test_no_recipe(refused: Refused, tmp_path: Path) -> None:
    refused({}, f"Recipe '{tmp_path / 'none.yaml'}' does not exist or is not a file.", recipe=tmp_path / "none.yaml")
    refused({}, f"Recipe '{tmp_path}' does not exist or is not a file.", recipe=tmp_path)


@pytest.fixture
def broken(data: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be broken."""
    return Path(shutil.copytree(data, tmp_path / "broken"))


def set_line(file: Path, number: int, line: str) -> None:
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join(lines) + "\n")


def test_a_broken_line(refused: Refused, broken: Path) -> None:
    file = broken / "plants" / "train.jsonl"
    set_line(file, 7, '{"text": "a rose", "label": ')
    refused({"data": broken}, f"{file}, line 7: not valid JSON")


def test_a_label_outside_the_label_set(refused: Refused, broken: Path) -> None:
    file = broken / "tools" / "test.jsonl"
    set_line(file, 3, '{"text": "a stone", "label": "perhaps"}')
    refused({"data": broken}, f"{file}, line 3: label 'perhaps' is not in the label set, which is 'no', 'yes'.")


def test_labels_that_cannot_be_told_apart(refused: Refused, broken: Path) -> None:
    (broken / "tools" / "task.json").write_text('{"labels": ["no", "yes", "No."]}')
    refused({"data": broken}, "Task 'tools': label 'no' becomes 'no' when answers are compared", "another label")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split(refused: Refused, broken: Path, split: str) -> None:
    file = broken / "animals" / f"{split}.jsonl"
    file.write_text("\n")
    refused({"data": broken}, f"{file} holds no rows; every split needs at least one.")


def test_a_missing_test_file(refused: Refused, broken: Path) -> None:
    (broken / "animals" / "test.jsonl").unlink()
    refused({"data": broken}, "there is no test file; put test.jsonl beside train.jsonl.")


def test_a_prompt_that_does_not_fit(refused: Refused, broken: Path) -> None:
    """Found before anything is written, like everything that the user can mend."""
    refused({"data": broken}, "raise max_source_length", settings=("optim.max_source_length=8",))


def test_targets_that_leave_no_room_for_a_prompt(refused: Refused, tiny_model: Model) -> None:
    """The tiny Llama has 64 positions, and 60 of them are kept for the target: the text's length is not to blame."""
    settings = ("optim.max_target_length=60",)
    refused({"model": tiny_model("llama")}, "max_target_length", settings=settings)


def test_a_model_folder_without_a_config(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    refused({"model": folder}, f"Model folder '{folder}' has no config.json: it is not a Hugging Face model folder.")
    (folder / "config.json").write_text("{broken")
    refused({"model": folder}, f"Model '{folder}' cannot be loaded (config.json): ")
    (folder / "config.json").write_text('{"model_type": "no_such_type"}')
    refused({"model": folder}, f"Model '{folder}' cannot be loaded (config.json): ")


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_model_folder_that_is_incomplete(refused: Refused, tiny_model: Model, tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(tiny_model("t5"), tmp_path / "model"))
    (folder / missing).unlink()
    what = "weights" if missing == "model.safetensors" else "tokenizer"
    refused({"model": folder}, f"Model '{folder}' cannot be loaded ({what}): ")


@pytest.fixture
def distilbert(tmp_path: Path) -> Path:
    """The folder of a model that reads and cannot write, and that is not among the encoders whose parts are known."""
    DistilBertConfig(vocab_size=64, dim=16, n_layers=1, n_heads=2, hidden_dim=24).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_that_cannot_write(refused: Refused, distilbert: Path) -> None:
    refused(
        {"model": distilbert},
        f"Model '{distilbert}' (distilbert) is neither encoder-decoder nor decoder-only, nor one of the encoders that "
        "nacre knows (bert, roberta, xlm-roberta).",
    )


def test_an_output_that_is_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused({"output": tmp_path / "file"}, f"Output '{tmp_path / 'file'}' is a file; a run needs a folder of its own.")
    refused({"output": tmp_path / "file" / "run"}, f"'{tmp_path / 'file'}' is a file.")


def test_an_output_that_holds_other_things(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    refused({"output": tmp_path / "mine"}, f"Output '{tmp_path / 'mine'}' holds other things and no recipe.yaml")


def test_an_output_whose_recipe_is_something_else(refused: Refused, tmp_path: Path) -> None:
    for text in ("- no\n- run\n", "", "method: [\n"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "recipe.yaml").write_text(text)
        refused({"output": tmp_path / "mine"}, tmp_path / "mine")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (("methods", "am_lro"), "There is no method 'am_lro'. Did you mean am_lora"),
        (("streams", "ordr4"), "There is no stream 'ordr4'. Did you mean order4"),
        (("report", "nowhere"), "does not exist"),
    ],
)
def test_other_commands(nacre: Call, command: tuple[str, ...], part: str) -> None:
    assert_one_line_error(nacre(*command), part)


def test_an_error_in_a_process_of_its_own(data: Path, tiny_model: Model, tmp_path: Path) -> None:
    """When the model has been loaded, no library's warning or progress bar joins the one line."""
    output = tmp_path / "out"
    said = process(
        *("run", "--method", "inc_lora", "--stream", STREAM, "--data", data, "--output", output),
        *("--model", tiny_model("t5"), "--set", "modules=[nowhere]"),
        folder=tmp_path,
    )
    assert_one_line_error(said, "modules: no linear map of the model has a name that ends in 'nowhere'.")
    assert list(tmp_path.iterdir()) == []
