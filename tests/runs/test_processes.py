"""A run in several processes: one writes, all stop together, and what they leave is what one leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.command import Call
from helpers.outcome import outcome
from helpers.tiny import write_task
from helpers.together import environment, launched, words_of

NAMES = ["animals", "plants"]
NO_DROPOUT = ["--set", "dropout=0"]
"""Each process draws its own."""


@pytest.fixture(scope="module")
def words(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run's; the method and the folder are to follow."""
    data = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write_task(data, name, rows=40)
    settings = ["optim.batch_size=4", "optim.learning_rate=0.001", "optim.epochs=3", "optim.log_every=2"]
    flags = ["--stream", ",".join(NAMES), "--data", str(data), "--model", str(tiny_model("t5")), "--save-every", "3"]
    return ["-m", "nacre", "run", *flags, *(word for setting in settings for word in ("--set", setting)), "--method"]


def events(folder: Path) -> Counter[str]:
    """How often each kind of event was written down."""
    return Counter(json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines())


def assert_alike(folder: Path, other: Path) -> None:
    """The same files and scores; tensors as near as rounding lets them."""
    here, there = outcome(folder), outcome(other)
    assert here.keys() == there.keys()
    for name in here:
        if name.endswith("predictions.jsonl") or name == "settings":
            assert here[name] == there[name], name
    scores = [json.loads((each / "results.json").read_text())["matrix"] for each in (folder, other)]
    assert scores[0] == scores[1]
    files = [name for name in here if name.endswith("adapter.safetensors")]
    assert files
    for name in files:
        mine, theirs = load_file(folder / name), load_file(other / name)
        assert mine.keys() == theirs.keys()
        for key, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[key], atol=1e-4, rtol=0, msg=f"{name}: {key}")


def test_processes_of_something_else_end_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nacre", "run", "--method", "seq_lora", "--output", str(tmp_path / "run")],
        env={**os.environ, "OMPI_COMM_WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: 2 processes were started by something else than torchrun")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_leave_what_one_leaves(words: Sequence[str], tmp_path: Path, nacre: Call) -> None:
    run = [*words, "am_lora", *NO_DROPOUT, "--output"]
    alone = nacre(*run[2:], tmp_path / "one")
    assert alone.code == 0, alone.err
    for name, flags in (("two", []), ("sharded", ["--sharded"])):
        done = launched(2, [*run, str(tmp_path / name), *flags])
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("The page: ") == 1
        assert_alike(tmp_path / name, tmp_path / "one")
        assert events(tmp_path / name) == events(tmp_path / "one")


def test_one_process_has_nothing_to_shard(words: Sequence[str], tmp_path: Path, nacre: Call) -> None:
    said = nacre(*words[2:], "seq_lora", "--output", tmp_path / "run", "--sharded")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "sharded over several processes, and there is one: start them with torchrun" in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("method", ["inc_lora", "ewc"])
def test_a_sharded_run_goes_on_with_one_process(words: Sequence[str], tmp_path: Path, method: str) -> None:
    run = [*words, method, *(NO_DROPOUT if method == "inc_lora" else ()), "--set", "optim.epochs=10"]
    command = [*run, "--output", str(tmp_path / "run")]
    said, seconds = stopped(
        2, [*command, "--sharded"], tmp_path / "run", lambda _, own: os.kill(own[-1], signal.SIGKILL)
    )
    assert seconds < 60
    assert said.count("\nError: ") + said.startswith("Error: ") == 1, said
    assert launched(1, command).returncode == 0
    assert launched(1, [*run, "--output", str(tmp_path / "straight")]).returncode == 0
    assert events(tmp_path / "run")["continued"] == 1
    assert_alike(tmp_path / "run", tmp_path / "straight")


def test_a_mistake_is_said_once(words: Sequence[str], tmp_path: Path) -> None:
    done = launched(2, [*words, "am_lora", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "run")])
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert str(tmp_path / "none") in errors[0]
    assert not (tmp_path / "run").exists()


def stopped(
    count: int, words: Sequence[str], folder: Path, send: Callable[[int, list[int]], object]
) -> tuple[str, float]:
    """A run in so many processes, stopped once something of its training is saved.

    Args:
        count: How many processes.
        words: Of the run.
        folder: Its output.
        send: Stops it: is given the launcher's number and those of the processes.

    Returns:
        What it said on standard error, and how many seconds it took to end.
    """
    process = subprocess.Popen(
        words_of(count, words), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (folder / "training" / "manifest.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    own = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    began = time.monotonic()
    send(process.pid, [int(number) for number in own])
    said = process.communicate(timeout=90)[1]
    assert process.returncode != 0
    return said, time.monotonic() - began


@pytest.mark.long
def test_a_killed_process_ends_all_and_one_goes_on(words: Sequence[str], tmp_path: Path) -> None:
    run = [*words, "inc_lora", *NO_DROPOUT, "--set", "optim.epochs=10"]
    command = [*run, "--output", str(tmp_path / "run")]
    said, seconds = stopped(2, command, tmp_path / "run", lambda _, own: os.kill(own[-1], signal.SIGKILL))
    assert seconds < 60
    lines = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, said
    assert lines[0].endswith("The same command goes on from what is saved.")
    for words in (command, [*run, "--output", str(tmp_path / "straight")]):
        done = launched(1, words)
        assert done.returncode == 0, done.stderr
    assert events(tmp_path / "run")["continued"] == 1
    assert_alike(tmp_path / "run", tmp_path / "straight")


@pytest.mark.long
@pytest.mark.parametrize("method", ["am_lora", "ewc", "der_pp"])
def test_two_go_on_where_one_was_killed(words: Sequence[str], tmp_path: Path, method: str) -> None:
    run = [*words, method, *(NO_DROPOUT if method == "am_lora" else ()), "--set", "optim.epochs=10"]
    command = [*run, "--output", str(tmp_path / "run")]
    stopped(1, command, tmp_path / "run", lambda launcher, _: os.kill(launcher, signal.SIGKILL))
    assert launched(2, command).returncode == 0
    assert launched(2, [*run, "--output", str(tmp_path / "straight")]).returncode == 0
    assert events(tmp_path / "run")["continued"] == 1
    assert_alike(tmp_path / "run", tmp_path / "straight")


@pytest.mark.long
def test_ctrl_c_is_saved_by_all(words: Sequence[str], tmp_path: Path) -> None:
    command = [*words, "inc_lora", "--set", "optim.epochs=10", "--output", str(tmp_path / "run")]

    def interrupt(_: int, own: list[int]) -> None:
        for number in own:  # as a terminal does; the launcher would tell them to end beside it
            os.kill(number, signal.SIGINT)

    said, _ = stopped(2, command, tmp_path / "run", interrupt)
    assert said.count("Interrupted after step ") == 1, said
    assert launched(2, command).returncode == 0


@pytest.mark.long
def test_a_loss_that_is_not_finite_in_one_process_ends_both(words: Sequence[str], tmp_path: Path) -> None:
    command = [*words, "inc_lora", "--set", "optim.learning_rate=1000", "--output", str(tmp_path / "run")]
    done = launched(2, [*command, "--set", "optim.epochs=40"])
    assert done.returncode != 0
    assert done.stderr.count("is not finite at step ") == 1, done.stderr


@pytest.mark.long
def test_a_sweep_under_a_launcher(words: Sequence[str], tmp_path: Path) -> None:
    flags = dict(zip(words[3::2], words[4::2], strict=False))
    recipe = {"method": "seq_lora", "stream": NAMES, "data": flags["--data"], "model": flags["--model"]}
    grid = {"recipe": {**recipe, "optim.batch_size": 4, "dropout": 0}, "vary": {"seed": [1, 2]}}
    for name, resources in (("alone", {"threads": 1}), ("pairs", {"threads": 1, "processes": 2})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**grid, "resources": resources}))
    for count, name, place in ((1, "alone", "one"), (2, "alone", "two"), (1, "pairs", "pairs")):
        sweep = ["-m", "nacre", "sweep", str(tmp_path / f"{name}.yaml"), "--output", str(tmp_path / place)]
        done = launched(count, sweep)
        assert done.returncode == 0, done.stderr
    for seed in (1, 2):
        one, two, pair = (tmp_path / place / "runs" / f"seed={seed}" for place in ("one", "two", "pairs"))
        assert outcome(one) == outcome(two)
        assert_alike(pair, one)
