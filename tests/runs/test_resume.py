"""A run that was stopped, however and whenever, ends as if nothing had happened: the same bytes, the same numbers."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.outcome import assert_same, outcome
from helpers.tiny import write_task
from nacre.cli.main import main
from nacre.errors import CheckpointError, NacreError, RecipeError
from nacre.events import Event, OnEvent, as_document, ignore, is_kept
from nacre.files import build_folder, sha256, write_atomically
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.records.reading import read_record
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.runs.stages import Stages

torch.set_num_threads(1)

NAMES = ("animals", "plants", "tools")
RATES = {"inc_lora": 0.03, "am_lora": 0.03, "seq_ft": 0.01, "independent": 0.01, "joint": 0.01}
REMEMBERING: dict[str, dict[str, Any]] = {  # methods whose parts keep much, with settings that fit the tiny model
    "lb_cl+migu": {"rank": 2, "roles": ["query", "output"], "migu": {"clusters": 4, "cluster_by": "magnitude"}},
    "lora_replay+ewc+migu": {"migu": {"by": "random"}},
    "epi+replay": {},
    "mocl": {},
    "sapt_lora": {"fraction": 0.3, "generator_steps": 6, "max_length": 16},
    "am_lora+orthogonality+sensitivity_init": {"start_offset": 1.0, "sparsity_by": "proximal"},
}
ONCE: dict[str, dict[str, Any]] = {  # methods and modifiers with state of their own; three stops in one run hold them
    "any_ssr": {"blocks": 1, "dimension": 32},
    "gain_lora": {"energy": 0.6, "gate_width": 12},
    "inf_lora": {"energy": 0.6},
    "latent_lora": {"rank": 4},
    "lfpt5": {"prompt_length": 3, "max_length": 16, "draws": 2},
    "l2p": {"pool": 4, "prompt_length": 2, "select": 2, "diversify": "frequency"},
    "prog_prompt": {"prompt_length": 3, "bottleneck": 8},
    "moe_lora": {"experts": 3},
    "slao": {},
    "osf": {"share": [0.3, 0.5, 0.7]},
    "der_pp": {"capacity": 5},
    "inc_lora+der": {"der": {"capacity": 5, "rows": 3}},
    "das": {"importance_rows": 5},
    "seq_ft+soft_mask": {"soft_mask": {"importance_rows": 5}},
    "seq_lora+distill": {},
    "hat": {"units": ["ffn"]},
    "hat_adapter": {"reduction": 1},
    "seq_lora+hat": {"hat": {"slope": 50.0}},
    "demix": {"reduction": 2},
    "sapt_lora, inputs written": {"fraction": 0.3, "generator_steps": 6, "max_length": 16},
    "sapt_lora, inputs kept": {"fraction": 0.3, "inputs": "real"},
}
STEPS = 4  # of a task
Model = Callable[[str], Path]


class Stop(Exception):
    """What stands for a crash inside a run."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks; nobody writes into it."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write_task(folder, name, rows=8)
    return folder


@pytest.fixture(scope="module")
def recipe(data: Path, tiny_model: Model) -> Callable[..., Recipe]:
    """``recipe(method, output)``: three tasks of four steps each, every step told."""
    model = tiny_model("t5")

    def made(method: str, output: Path, **changes: Any) -> Recipe:
        optim = Optim(learning_rate=RATES.get(method, 0.03), batch_size=4, epochs=2, log_every=1)
        name = method.partition(",")[0]
        fields: dict[str, Any] = {"method": name, "stream": list(NAMES), "data": str(data), "model": str(model)}
        fields["parameters"] = {**REMEMBERING, **ONCE, **INSIDE}.get(method, {})
        return Recipe(**{**fields, "output": str(output), "optim": optim, **changes})

    return made


Recipes = Callable[..., Recipe]


@pytest.fixture(scope="module")
def straight(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``straight(method)``: the folder of the run that nothing stops."""

    @cache
    def folder(method: str) -> Path:
        output = tmp_path_factory.mktemp("straight") / method
        torch.manual_seed(1)
        run(recipe(method, output), ignore)
        return output

    return folder


def stop_at(kind: str, times: int = 1, **values: object) -> OnEvent:
    """Raises at the n-th event of that kind with those values."""
    seen = 0

    def stop(event: Event) -> None:
        nonlocal seen
        if is_kept(event) and {"event": kind, **values}.items() <= as_document(event).items():
            seen += 1
            if seen == times:
                raise Stop(kind)

    return stop


def events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What ``events.jsonl`` says, one line each; of one kind."""
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if kind in (None, event["event"])]


def test_the_comparison_sees_another_seed(recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path) -> None:
    """Without this, all the tests below could compare nothing."""
    run(recipe("inc_lora", tmp_path / "run", seed=1), ignore)
    here, there = outcome(tmp_path / "run"), outcome(straight("inc_lora"))
    assert here.keys() == there.keys()
    different = {name for name in here if here[name] != there[name]}
    assert {
        "results.json",
        "settings",
        "tasks/01-animals/adapter.safetensors",
        "tasks/01-animals/state.json",
    } <= different
    assert "protocol.json" not in different


# Stopped by an exception, at every kind of place.

PLACES: dict[str, tuple[int, dict[str, Any]]] = {  # how many tasks are saved by then, and which event it is
    "before row 0": (0, {"kind": "evaluate", "row": 0}),
    "in the first task": (0, {"kind": "step", "times": 2}),
    "in the first evaluation": (1, {"kind": "evaluate", "row": 1}),
    "between commit and next stage": (1, {"kind": "row", "number": 1}),
    "at the start of the second task": (1, {"kind": "stage", "number": 2}),
    "in the last task": (2, {"kind": "step", "times": 2 * STEPS + 3}),
    "in the last evaluation": (3, {"kind": "evaluate", "row": 3}),
    "right before the record": (3, {"kind": "row", "number": 3}),
    "right after the record": (3, {"kind": "finished"}),
}


CASES = [
    *((method, place) for method in ("inc_lora", "am_lora", "seq_ft", "independent") for place in PLACES),
    *((method, place) for method in REMEMBERING for place in ("between commit and next stage", "in the last task")),
]


@pytest.mark.parametrize(("method", "place"), CASES)
def test_stopped_once(
    recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path, method: str, place: str
) -> None:
    saved, event = PLACES[place]
    in_evaluation = event["kind"] == "evaluate" and saved > 0
    ended = place == "right after the record"
    output = tmp_path / "run"
    expected = straight(method)
    torch.manual_seed(2)  # and another state below: what the caller draws has no part in a run
    with pytest.raises(Stop):
        run(recipe(method, output), stop_at(**event))
    assert (output / "results.json").exists() == ended
    torch.manual_seed(3)
    seen: list[dict[str, Any]] = []

    def note(event: Event) -> None:
        if is_kept(event):
            seen.append(json.loads(json.dumps(as_document(event))))

    record = run(recipe(method, output), note)
    assert_same(output, expected)
    assert record == read_record(output / "results.json")

    trained = [event["name"] for event in seen if event["event"] == "stage"]
    assert trained == list(NAMES[saved:])  # what was saved is not trained again
    resumed = [event["tasks"] for event in seen if event["event"] == "resumed"]
    if method == "independent":  # copies start from the host, so that only one that is to be measured is read
        assert resumed == ([[NAMES[saved - 1]]] if in_evaluation else [])
    else:
        assert resumed == ([list(NAMES[:saved])] if in_evaluation or 0 < saved < 3 else [])
    assert seen[-1] == {"event": "finished", "path": str(output), "already": ended}
    assert [path.name for path in output.rglob("*.partial")] == []


def test_stopped_again_and_again(recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path) -> None:
    output = tmp_path / "run"
    places: list[dict[str, Any]] = [
        {"kind": "evaluate", "row": 0},
        {"kind": "step", "times": 3},
        {"kind": "evaluate", "row": 1},
        {"kind": "step", "times": STEPS},
        {"kind": "row", "number": 2},
        {"kind": "step"},
        {"kind": "row", "number": 3},
    ]
    for place in places:
        with pytest.raises(Stop):
            run(recipe("am_lora", output), stop_at(**place))
    run(recipe("am_lora", output), ignore)
    assert_same(output, straight("am_lora"))


@pytest.mark.parametrize("method", ONCE)
def test_stopped_between_tasks_and_in_tasks(
    recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def sample(self: Host, rows: Sequence[object], count: int, *, seeds: Sequence[int], **_: object) -> list[list[str]]:
        """What no tiny host would write: rows of a task, by their seeds."""
        return [[f"the {('dog', 'stone', 'hen')[seed % 3]} Answer : {('yes', 'no')[seed // 3 % 2]}"] for seed in seeds]

    monkeypatch.setattr(Host, "sample", sample)
    output = tmp_path / "run"
    places: list[dict[str, Any]] = [
        {"kind": "row", "number": 1},
        {"kind": "step", "step": 2},  # of the second task
        {"kind": "step", "step": 2, "times": 2},  # of the third
    ]
    for saved, place in zip((1, 1, 2), places, strict=True):
        with pytest.raises(Stop):
            run(recipe(method, output), stop_at(**place))
        assert len(list((output / "tasks").glob("*/state.json"))) == saved
    run(recipe(method, output), ignore)
    assert_same(output, straight(method))


def test_joint_begins_again_until_it_is_learned(
    recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    for stop in (stop_at("step", 5), stop_at("evaluate", row=3)):
        with pytest.raises(Stop):
            run(recipe("joint", output), stop)
    run(recipe("joint", output), ignore)
    assert len(events(output, "stage")) == 2  # what the second stop left was measured, not learned
    here, there = outcome(output), outcome(straight("joint"))
    assert here == there
    assert here["tasks/03-joint/adapter.safetensors"]


def test_stopped_between_two_answers(
    recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    write, calls = Host.write, 0

    def failing(self: Host, *arguments: Any) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 3:  # rows 0 and 1 are done
            raise Stop
        return write(self, *arguments)

    monkeypatch.setattr(Host, "write", failing)
    with pytest.raises(Stop):
        run(recipe("inc_lora", output), ignore)
    assert sorted(path.name for path in (output / "tasks").glob("*/row.json")) == ["row.json"] * 2
    assert (output / "tasks" / "02-plants" / "learned.json").exists()
    run(recipe("inc_lora", output), ignore)
    assert [event["name"] for event in events(output, "stage")] == list(NAMES)  # each task is learned once
    assert_same(output, straight("inc_lora"))


@pytest.mark.parametrize("call", range(1, 5))
def test_stopped_while_the_folder_is_begun(
    recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Before each of the four files that say what is run."""
    output = tmp_path / "run"
    calls = 0

    def failing(path: Path, content: str | bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        write_atomically(path, content)

    monkeypatch.setattr("nacre.runs.directory.write_atomically", failing)
    with pytest.raises(Stop):
        run(recipe("inc_lora", output), ignore)
    monkeypatch.undo()
    run(recipe("inc_lora", output), ignore)
    assert_same(output, straight("inc_lora"))


# Stopped by a signal, in a process of its own.


@pytest.fixture(scope="module")
def command(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run whose third task takes about a second."""
    data = tmp_path_factory.mktemp("more") / "data"
    for name in NAMES:
        write_task(data, name, rows=64 if name == "tools" else 8)
    return [
        *("run", "--method", "am_lora", "--stream", ",".join(NAMES), "--data", str(data), "--seed", "5"),
        *("--model", str(tiny_model("t5")), "--set", "optim.batch_size=4", "--set", "optim.epochs=4"),
        *("--set", "optim.learning_rate=0.03", "--set", "optim.log_every=1"),
    ]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["nacre", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def uninterrupted(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("signals") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        assert call([*command, "--output", str(output)], patch) == 0
    return output


@pytest.fixture
def in_third_task(command: list[str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that stands still in the middle of the third task, and its run's folder."""
    output = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "nacre", *command, "--output", str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        deadline = time.monotonic() + 90
        while not in_the_middle(output / "events.jsonl"):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        yield process, output
    finally:
        process.kill()
        process.wait()


def in_the_middle(file: Path) -> bool:
    lines = file.read_text().splitlines()[:-1] if file.exists() else []
    told = [json.loads(line) for line in lines]
    stages = [number for number, event in enumerate(told) if event["event"] == "stage"]
    return len(stages) == 3 and sum(event["event"] == "step" for event in told[stages[2] :]) >= 3


def test_killed(
    in_third_task: tuple[subprocess.Popen[str], Path],
    uninterrupted: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While the process lives, no other may run in its folder; when it is killed, the next one goes on."""
    process, output = in_third_task
    before = hashes(output)
    assert call([*command, "--output", str(output)], monkeypatch) == 2
    said = capsys.readouterr()
    assert said.err == f"Error: Another process is running in '{output}'; wait for it, or choose another --output.\n"
    assert said.out == ""
    assert hashes(output) == before

    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert not (output / "results.json").exists()
    assert not (output / "tasks" / "03-tools").exists()
    assert call([*command, "--output", str(output)], monkeypatch) == 0
    assert "Continuing after 2 finished tasks" in " ".join(capsys.readouterr().out.split())
    assert [event["tasks"] for event in events(output, "resumed")] == [["animals", "plants"]]
    assert [event["name"] for event in events(output, "stage")] == [*NAMES, "tools"]
    assert_same(output, uninterrupted)


def test_interrupted(
    in_third_task: tuple[subprocess.Popen[str], Path],
    uninterrupted: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, output = in_third_task
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    (saved,) = events(output, "saved")
    step = f"step {saved['step']} of {saved['steps']}"
    advice = "The same command goes on from what is saved."
    assert " ".join(said.split()) == f"Interrupted after {step}, which is saved. {advice}"
    assert not (output / "results.json").exists()
    assert call([*command, "--output", str(output)], monkeypatch) == 0
    assert [event["tasks"] for event in events(output, "resumed")] == [["animals", "plants"]]
    assert events(output, "continued")[0]["step"] == saved["step"]
    assert_same(output, uninterrupted)


INSIDE: dict[str, dict[str, Any]] = {  # with settings that fit the tiny model
    "seq_ft": {},
    "am_lora": {},
    "lb_cl": {"rank": 2, "roles": ["query", "output"]},
    "inc_lora+migu": {},
    "lora_replay": {},
    "ewc": {},
    "der_pp": {"capacity": 5},
    "nacre": {},
}


def killed_at(recipe: Recipe, kind: str, times: int) -> None:
    """Run in a process that kills itself at the n-th event of a kind."""

    def end(event: Event) -> None:
        try:
            stop(event)
        except Stop:
            os.kill(os.getpid(), signal.SIGKILL)

    stop = stop_at(kind, times)
    process = multiprocessing.get_context("fork").Process(target=run, args=(recipe, end))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("method", INSIDE)
def test_killed_inside_a_task(recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path, method: str) -> None:
    """With SIGKILL: where training was just saved, between two saves, and after the last step of a task."""
    output = tmp_path / "run"
    expected = straight(method)
    saving = recipe(method, output, save_every=3)
    for kind, times in (("saved", 1), ("step", 2), ("saved", 2), ("step", 2), ("evaluate", 1)):
        killed_at(saving, kind, times)
        assert not (output / "results.json").exists()
    assert events(output, "continued")
    run(recipe(method, output), ignore)
    assert_same(output, expected)
    assert not (output / "training").exists()


# A folder that is not as it was left.


@pytest.fixture(scope="module")
def stopped(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its third task; nobody writes into it."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        run(recipe("inc_lora", output), stop_at("step", 2 * STEPS + 1))
    return output


@pytest.fixture
def unfinished(stopped: Path, tmp_path: Path) -> Path:
    """Its copy, to be damaged or continued."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a run but its log."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "events.jsonl"]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "02-plants/adapter.safetensors",
        "02-plants/state.safetensors",
        "02-plants/state.json",
        "02-plants/row.json",
        "02-plants/predictions/03-tools.jsonl.gz",
        "01-animals/adapter.safetensors",
        "00-before/row.json",
    ],
)
def test_a_damaged_file_is_named(recipe: Recipes, unfinished: Path, name: str) -> None:
    file = unfinished / "tasks" / name
    flip(file)
    damaged = hashes(unfinished / "tasks")
    with pytest.raises(CheckpointError) as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert str(caught.value).startswith(f"{file} is damaged: its sha256 differs")
    assert hashes(unfinished / "tasks") == damaged
    file.unlink()
    with pytest.raises(CheckpointError) as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert str(caught.value).startswith(f"{file} is missing")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_manifest_is_named(recipe: Recipes, unfinished: Path, content: str) -> None:
    file = unfinished / "tasks" / "02-plants" / "manifest.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["recipe.yaml", "protocol.json"])
@pytest.mark.parametrize("content", ["", "[", "[]"])
def test_a_damaged_description_is_named(recipe: Recipes, unfinished: Path, name: str, content: str) -> None:
    (unfinished / name).write_text(content)
    with pytest.raises(NacreError, match=re.escape(str(unfinished / name))):
        run(recipe("inc_lora", unfinished), ignore)


def test_a_damaged_record_is_named(recipe: Recipes, unfinished: Path) -> None:
    for content in ("", "{}", "[]"):
        (unfinished / "results.json").write_text(content)
        with pytest.raises(CheckpointError, match=re.escape(str(unfinished / "results.json"))):
            run(recipe("inc_lora", unfinished), ignore)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    "name",
    [
        "recipe.yaml",
        "protocol.json",
        "results.json",
        "events.jsonl",
        "tasks/02-plants/manifest.json",
        "tasks/02-plants/state.json",
        "tasks/02-plants/adapter.safetensors",
        "tasks/00-before/row.json",
    ],
)
def test_nobody_waits_for_a_pipe(recipe: Recipes, unfinished: Path, name: str, kind: str) -> None:
    """Nor reads a device that has no end."""
    file = unfinished / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises((NacreError, OSError)) as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert str(file) in str(caught.value)


def test_other_settings_do_not_continue(recipe: Recipes, unfinished: Path) -> None:
    before = hashes(unfinished)
    with pytest.raises(RecipeError, match="seed is 0 there and 8 here"):
        run(recipe("inc_lora", unfinished, seed=8), ignore)
    with pytest.raises(RecipeError, match=r"set\.rank is 8 there and 4 here"):
        run(recipe("inc_lora", unfinished, parameters={"rank": 4}), ignore)
    assert hashes(unfinished) == before


def test_leftovers_are_removed(recipe: Recipes, straight: Callable[[str], Path], unfinished: Path) -> None:
    half = unfinished / "tasks" / ".03-tools.4711.partial"
    (half / "predictions").mkdir(parents=True)
    (half / "adapter.safetensors").write_bytes(b"half")
    (unfinished / ".results.json.4711.partial").write_text("{")
    (unfinished / "tasks" / "03-tools").mkdir()  # without a manifest it was never finished
    (unfinished / "tasks" / "03-tools" / "adapter.safetensors").write_bytes(b"half")
    run(recipe("inc_lora", unfinished), ignore)
    assert_same(unfinished, straight("inc_lora"))


# Stages that do not belong together.

SEQUENTIAL = ("inc_lora", "am_lora", "seq_ft", *REMEMBERING)


@pytest.mark.parametrize("method", [*SEQUENTIAL, "independent"])
@pytest.mark.parametrize("gaps", [(2,), (1,), (0,), (1, 3), (2, 3)], ids=str)
def test_what_follows_a_gap_is_learned_again(
    recipe: Recipes, straight: Callable[[str], Path], tmp_path: Path, method: str, gaps: tuple[int, ...]
) -> None:
    """A finished folder whose page and record are gone, and some stages."""
    output = tmp_path / "run"
    shutil.copytree(straight(method), output)
    (output / "events.jsonl").unlink()
    (output / "results.json").unlink()
    for number in gaps:
        (gone,) = (output / "tasks").glob(f"0{number}-*")
        shutil.rmtree(gone)
    run(recipe(method, output), ignore)
    assert [event["name"] for event in events(output, "stage")] == list(NAMES[max(gaps[0], 1) - 1 :])
    warnings = [event["text"] for event in events(output, "warning")]  # a generator that wrote nothing warns, too
    missed = [text for text in warnings if "follows a stage that is not there any more" in text]
    assert len(missed) == len(NAMES) - gaps[0] - (len(gaps) - 1)
    assert_same(output, straight(method))


FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {  # method and changes of the run that a stage is taken from
    "another seed": ("inc_lora", {"seed": 1}),
    "another rate": ("inc_lora", {"optim": Optim(learning_rate=0.02, batch_size=4, epochs=2, log_every=1)}),
    "another method": ("am_lora", {}),
    "another parameter": ("inc_lora", {"parameters": {"alpha": 4.0}}),
    "other decoding": ("inc_lora", {"evaluation": {"decode": "labels"}}),
    "other rows": ("inc_lora", {"limit_train": 4}),
}


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_stage_of_another_run_is_refused(
    recipe: Recipes, unfinished: Path, tmp_path: Path, kind: str, number: int
) -> None:
    method, changes = FOREIGN[kind]
    other = tmp_path / "other"
    with pytest.raises(Stop):
        run(recipe(method, other, **changes), stop_at("stage", number=3))
    (stage,) = (unfinished / "tasks").glob(f"0{number}-*")
    shutil.rmtree(stage)
    shutil.copytree(other / "tasks" / stage.name, stage)
    before = hashes(unfinished / "tasks")
    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert f"Delete the folder '{stage}'" in str(caught.value)
    assert hashes(unfinished / "tasks") == before


def test_the_advice_helps(recipe: Recipes, straight: Callable[[str], Path], unfinished: Path) -> None:
    """One deletes the folder that is named, and the run ends as if nothing had happened."""
    flip(unfinished / "tasks" / "01-animals" / "adapter.safetensors")
    with pytest.raises(CheckpointError) as caught:
        run(recipe("inc_lora", unfinished), ignore)
    (named,) = re.findall(r"Delete the folder '([^']*)'", str(caught.value))
    shutil.rmtree(named)
    run(recipe("inc_lora", unfinished), ignore)
    assert_same(unfinished, straight("inc_lora"))


def test_exchanged_stages_are_learned_again(
    recipe: Recipes, straight: Callable[[str], Path], unfinished: Path, tmp_path: Path
) -> None:
    tasks = unfinished / "tasks"
    (tasks / "01-animals").rename(tmp_path / "one")
    (tasks / "02-plants").rename(tasks / "01-animals")
    (tmp_path / "one").rename(tasks / "02-plants")
    run(recipe("inc_lora", unfinished), ignore)
    assert_same(unfinished, straight("inc_lora"))


def test_settings_changed_by_hand_in_the_folder_do_not_continue(recipe: Recipes, unfinished: Path) -> None:
    """Folder and command agree on a rate, and the stages were learned with another."""
    file = unfinished / "recipe.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.03", "learning_rate: 0.01"))
    optim = Optim(learning_rate=0.01, batch_size=4, epochs=2, log_every=1)
    with pytest.raises(CheckpointError, match="00-before' belongs to another run"):
        run(recipe("inc_lora", unfinished, optim=optim), ignore)


LIES: dict[str, Callable[[dict[str, Any]], object]] = {  # what a manifest may say that no manifest does
    "no file": lambda manifest: manifest["sha256"].clear(),
    "no learner": lambda manifest: manifest["sha256"].pop("state.json"),
    "no tensors": lambda manifest: manifest["sha256"].pop("state.safetensors"),
    "a list": lambda manifest: manifest.update(sha256=[]),
    "nothing": lambda manifest: manifest.update(sha256=None),
    "a text": lambda manifest: manifest.update(sha256="x"),
    "no hash": lambda manifest: manifest["sha256"].update({"state.json": None}),
    "half a hash": lambda manifest: manifest["sha256"].update({"state.json": "abc"}),
    "a file elsewhere": lambda manifest: manifest["sha256"].update({"../00-before/row.json": "0" * 64}),
    "a newer schema": lambda manifest: manifest.update(schema="nacre.learner/99"),
    "no schema": lambda manifest: manifest.pop("schema"),
    "something else": lambda manifest: manifest.update(extra=1),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_named(recipe: Recipes, stopped: Path, unfinished: Path, lie: str) -> None:
    file = unfinished / "tasks" / "02-plants" / "manifest.json"
    document = json.loads(file.read_text())
    LIES[lie](document)
    file.write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_a_folder_is_named(recipe: Recipes, unfinished: Path) -> None:
    file = unfinished / "tasks" / "02-plants" / "manifest.json"
    file.unlink()
    file.mkdir()
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: it is a folder"):
        run(recipe("inc_lora", unfinished), ignore)


def forged(stage: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file, and the manifest so that it agrees."""
    file = stage / name
    document = json.loads(file.read_text())
    file.write_text(json.dumps(change(document) or document))
    manifest = json.loads((stage / "manifest.json").read_text())
    manifest["sha256"][name] = sha256(file)
    (stage / "manifest.json").write_text(json.dumps(manifest))


FORGED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a field more": ("row.json", lambda row: row.update(new=1)),
    "another row": ("row.json", lambda row: row.update(row=1)),
    "a score less": ("row.json", lambda row: row["scores"].pop()),
    "a score above 1": ("row.json", lambda row: row["scores"].__setitem__(0, 1.5)),
    "a list for a row": ("row.json", lambda row: [row]),
    "no parts": ("state.json", lambda state: state.pop("parts") and None),
    "no method": ("state.json", lambda state: state.pop("method") and None),
    "a list for a learner": ("state.json", lambda state: [state]),
    "a text for tasks": ("state.json", lambda state: state.update(tasks="plants")),
    "other tasks": ("state.json", lambda state: state.update(tasks=["plants", "animals"])),
    "owners of another kind": ("state.json", lambda state: state.update(owners=[])),
    "a newer learner": ("state.json", lambda state: state.update(schema="nacre.learner/99")),
    "an old learner without slots": ("state.json", lambda state: state.update(schema="nacre.learner/1")),
    "another seed": ("state.json", lambda state: state.update(seed=1)),
    "another method": ("state.json", lambda state: state["method"].update(name="seq_lora")),
    "another parameter": ("state.json", lambda state: state["method"]["parameters"].update(rank=4)),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_stage_that_agrees_with_its_manifest_and_not_with_the_run(
    recipe: Recipes, unfinished: Path, kind: str
) -> None:
    name, change = FORGED[kind]
    stage = unfinished / "tasks" / "02-plants"
    forged(stage, name, change)
    with pytest.raises(CheckpointError) as caught:
        run(recipe("inc_lora", unfinished), ignore)
    assert str(stage) in str(caught.value)
    assert "\n" not in str(caught.value)


# Names of tasks become names of folders.

ODD = (
    "two words",
    "two-words",
    "naïve 名前",
    "a" * 99 + "b",
    "a" * 99 + "c",
    "[bold]not bold[red]",
    "ends in a dot.",
    "...mine",
    "?*:|<>\"'",
    "𝒳" * 60,
)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True))
@example([*ODD, ".hidden", ".", "-"])
def test_every_name_makes_a_folder_name(names: list[str]) -> None:
    folder = Stages(Path("run"), "", 1, ignore)
    made = [folder.folder(number, name) for number, name in enumerate(names, start=1)]
    assert len({path.name.lower() for path in made}) == len(names)
    for path in made:
        assert path.parent == Path("run/tasks")
        assert re.fullmatch(r"\d\d-[\w+][\w.+-]*", path.name), path.name
        # Room for the dot, process number and ".partial" of its temporary name, in file systems that end at 255 bytes.
        assert len(os.fsencode(path.name)) <= 230, path.name


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_a_stage_of_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    folder = Stages(tmp_path, "", 1, ignore).folder(1, name)

    def fill(place: Path) -> None:
        (place / f"{folder.name}.jsonl.gz").write_text("x")

    build_folder(folder, fill)
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == [folder.name]


def test_a_run_with_odd_names(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["two words", "two-words", "naïve 名前", "a" * 99 + "b", "a" * 99 + "c", "[bold]not bold[red]"]
    for name in names:
        write_task(tmp_path / "data", name, rows=8)
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "method": "inc_lora",
                "stream": names,
                "model": str(tiny_model("t5")),
                "data": str(tmp_path / "data"),
                "output": str(tmp_path / "run"),
            }
        )
    )
    assert call(["run", str(tmp_path / "recipe.yaml")], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "[bold]not bold[red] 0.0" in " ".join(shown.split())  # names are not markup
    folders = sorted(path.name for path in (tmp_path / "run" / "tasks").iterdir())
    assert len(folders) == len(names) + 1
    assert folders[:4] == ["00-before", "01-two-words", "02-two-words", "03-naïve-名前"]
    for folder in folders:
        assert len(list((tmp_path / "run" / "tasks" / folder / "predictions").iterdir())) == len(names)
    assert read_record(tmp_path / "run" / "results.json").tasks == names


def test_a_name_with_a_leading_dot(tiny_model: Model, tmp_path: Path) -> None:
    write_task(tmp_path, "data", rows=8)
    (tmp_path / "data" / "task.json").write_text('{"name": ".hidden"}')
    recipe = Recipe(
        method="inc_lora",
        stream=[".hidden"],
        model=str(tiny_model("t5")),
        data=str(tmp_path / "data"),
        output=str(tmp_path / "run"),
    )
    run(recipe, ignore)
    assert sorted(path.name for path in (tmp_path / "run" / "tasks").iterdir()) == ["00-before", "01-hidden"]


def test_an_output_with_brackets(
    data: Path, tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is text: a path that looks like markup neither fails nor vanishes."""
    options = ["--stream", "animals,tools", "--data", str(data), "--model", str(tiny_model("t5"))]
    output = tmp_path / "runs[" / "bold]"
    assert call(["run", "--method", "inc_lora", *options, "--output", str(output)], monkeypatch) == 0
    assert (output / "results.json").exists()
    assert "runs[/bold]" in "".join(capsys.readouterr().out.split())
