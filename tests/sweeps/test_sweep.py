"""Sweeps: each run is carried out once, what fails is named, and a sweep that was killed goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command import Call
from helpers.outcome import outcome
from helpers.tiny import write_task
from nacre.errors import NacreError, RecipeError
from nacre.events import ignore
from nacre.records.run import RunRecord
from nacre.runs.recipe import read_recipe
from nacre.runs.run import run
from nacre.sweeps.engines.engine import Resources
from nacre.sweeps.grid import read_grid
from nacre.sweeps.sweep import RunEnded, Sweep

NAMES = ["animals", "plants"]


class Here:
    """An engine that carries runs out in this process, at once."""

    def __init__(self, broken: dict[str, str] | None = None) -> None:
        """Keep what it is to do.

        Args:
            broken: By a part of a run's name, the error that it ends with.
        """
        self.broken, self.begun = broken or {}, list[str]()

    def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
        future: Future[int] = Future()
        recipe, output = Path(command[4]), command[6]
        self.begun.append(recipe.stem)
        resources.log.parent.mkdir(parents=True, exist_ok=True)
        resources.log.touch()
        try:
            for part, said in self.broken.items():
                if part in recipe.stem:
                    raise NacreError(said)
            run(read_recipe(recipe, {"output": output}, []), ignore)
            future.set_result(0)
        except NacreError as error:
            resources.log.write_text(f"Something else.\nError: {error}\n")
            future.set_result(2)
        return future

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def shared(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all runs of these grids share."""
    data = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write_task(data, name, rows=8)
    return {
        "stream": NAMES,
        "data": str(data),
        "model": str(tiny_model("t5")),
        "optim": {"batch_size": 4, "learning_rate": 0.03},
    }


@pytest.fixture
def sweep_of(shared: dict[str, Any], tmp_path: Path) -> Callable[..., Sweep]:
    def made(place: str = "sweep", **grid: Any) -> Sweep:
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump({"recipe": shared, **grid}, sort_keys=False))
        return Sweep(tmp_path / place, read_grid(file))

    return made


Sweeps = Callable[..., Sweep]
VARY = {"method": ["seq_lora", "inc_lora"], "seed": [1, 2]}
RATES = {"vary": {"optim.learning_rate": [0.001, 0.03]}, "with": {"stream": ["animals"]}}


def test_each_run_is_carried_out_once(sweep_of: Sweeps) -> None:
    sweep, engine, ended = sweep_of(vary=VARY), Here(), list[RunEnded]()
    assert {run.state for run in sweep.status()} == {"new"}
    found = sweep.carry_out(engine, 1, ended.append)
    assert [run.state for run in found] == ["finished"] * 4
    assert all(run.value is not None for run in found)
    assert [(each.done, each.of, each.reason) for each in ended] == [(1, 4, ""), (2, 4, ""), (3, 4, ""), (4, 4, "")]
    assert len(engine.begun) == 4
    again = Here()
    assert sweep.carry_out(again, 1, ended.append) == found
    assert again.begun == []


def test_a_grid_that_grows_keeps_what_is_there(sweep_of: Sweeps) -> None:
    sweep_of(vary=VARY).carry_out(Here(), 1, lambda _: None)
    engine = Here()
    sweep_of(vary={**VARY, "seed": [1, 2, 3]}).carry_out(engine, 1, lambda _: None)
    assert engine.begun == ["method=seq_lora,seed=3", "method=inc_lora,seed=3"]


def test_a_run_that_fails_is_named_and_tried_again(sweep_of: Sweeps) -> None:
    sweep, ended = sweep_of(vary=VARY), list[RunEnded]()
    found = sweep.carry_out(Here({"inc_lora,seed=2": "The disk is full."}), 1, ended.append)
    assert [run.state for run in found] == ["finished", "finished", "finished", "failed"]
    assert found[3].reason == "The disk is full."
    assert {each.name: each.reason for each in ended if each.reason} == {"method=inc_lora,seed=2": "The disk is full."}
    engine = Here()
    assert [run.state for run in sweep.carry_out(engine, 1, ended.append)] == ["finished"] * 4
    assert engine.begun == ["method=inc_lora,seed=2"]


def test_an_engine_that_fails_is_no_crash(sweep_of: Sweeps) -> None:
    class Broken(Here):
        def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
            future: Future[int] = Future()
            future.set_exception(ConnectionError("the cluster\nis gone"))
            return future

    found = sweep_of(vary=VARY).carry_out(Broken(), 1, lambda _: None)
    assert {run.reason for run in found} == {"the engine failed: ConnectionError: the cluster"}


def test_a_rate_is_chosen_first_and_by_the_metric(sweep_of: Sweeps) -> None:
    sweep, engine = sweep_of(vary=VARY, choose=RATES), Here()
    found = {run.name: run for run in sweep.carry_out(engine, 1, lambda _: None)}
    assert len(engine.begun) == 4 + 4
    assert [name.startswith("method") for name in engine.begun] == [True] * 8  # the folders tell them apart
    for method in VARY["method"]:
        values = {rate: found[f"choice/method={method},learning_rate={rate},seed=1"].value for rate in (0.001, 0.03)}
        best = 0.001 if (values[0.001] or 0) >= (values[0.03] or 0) else 0.03  # of equal ones the first
        assert [found[f"method={method},seed={seed}"].chosen for seed in (1, 2)] == [{"optim.learning_rate": best}] * 2
        recipe = yaml.safe_load((sweep.path / "runs" / f"method={method},seed=1" / "recipe.yaml").read_text())
        assert recipe["optim"]["learning_rate"] == best
        assert recipe["measure_on"] == "test"


@pytest.mark.parametrize(("by", "best"), [("average_accuracy", 0.03), ("forgetting", 0.001), ("end_task_f1", 0.03)])
def test_the_best_value_is_chosen_whichever_way_is_better(
    sweep_of: Sweeps, monkeypatch: pytest.MonkeyPatch, by: str, best: float
) -> None:
    def value(record: RunRecord, key: str) -> float:
        assert record.optim is not None
        return {0.001: 0.2, 0.03: 0.5, 0.3: 0.3}[record.optim["learning_rate"]]

    monkeypatch.setattr(RunRecord, "value", value)
    rates = {"vary": {"optim.learning_rate": [0.3, 0.001, 0.03]}, "by": by}
    found = sweep_of(vary={"method": ["seq_lora"]}, choose=rates).carry_out(Here(), 1, lambda _: None)
    assert found[-1].chosen == {"optim.learning_rate": best}


def test_a_rate_that_diverges_is_no_candidate(sweep_of: Sweeps) -> None:
    broken = {"learning_rate=0.001": "The loss is not finite at step 3 of 'animals'. Lower optim.learning_rate."}
    found = sweep_of(vary=VARY, choose=RATES).carry_out(Here(broken), 1, lambda _: None)
    assert [run.chosen for run in found[-4:]] == [{"optim.learning_rate": 0.03}] * 4
    assert [run.state for run in found] == ["failed", "finished"] * 2 + ["finished"] * 4


def test_nothing_is_chosen_while_a_candidate_is_missing(sweep_of: Sweeps) -> None:
    sweep = sweep_of(vary=VARY, choose=RATES)
    broken = Here({"seq_lora,learning_rate=0.03": "The disk is full."})
    found = {run.name: run for run in sweep.carry_out(broken, 1, lambda _: None)}
    waiting = found["method=seq_lora,seed=2"]
    assert (waiting.state, waiting.reason) == ("waiting", "failed: choice/method=seq_lora,learning_rate=0.03,seed=1")
    assert found["method=inc_lora,seed=2"].state == "finished"
    assert {run.state for run in sweep.carry_out(Here(), 1, lambda _: None)} == {"finished"}


def test_nothing_is_chosen_by_a_metric_that_a_candidate_lacks(sweep_of: Sweeps, shared: dict[str, Any]) -> None:
    """Of joint training only the last row is known, so that there is no accuracy along the way."""
    rates = {"vary": RATES["vary"], "by": "incremental_accuracy"}
    sweep = sweep_of(recipe={**shared, "matrix": "seen"}, vary={"method": ["joint", "seq_lora"]}, choose=rates)
    found = {run.name: run for run in sweep.carry_out(Here(), 1, lambda _: None)}
    names = ", ".join(f"choice/method=joint,learning_rate={rate}" for rate in (0.001, 0.03))
    assert found["method=joint"].state == "waiting"
    assert found["method=joint"].reason == (f"incremental_accuracy is not defined in {names}; choose by another metric")
    assert found["method=seq_lora"].state == "finished"


def test_other_settings_in_a_run_that_is_there_are_refused(sweep_of: Sweeps, shared: dict[str, Any]) -> None:
    """A grid whose shared settings have changed does not mix two kinds of results."""
    sweep_of(vary=VARY).carry_out(Here({"seed=2": "The disk is full."}), 1, lambda _: None)
    (sweep_of(vary=VARY).path / "runs" / "method=seq_lora,seed=1" / "results.json").unlink()
    found = sweep_of(vary=VARY, recipe={**shared, "limit_train": 4}).carry_out(Here(), 1, lambda _: None)
    assert "limit_train is null there and 4 here" in {run.name: run.reason for run in found}["method=seq_lora,seed=1"]


def test_finished_runs_with_other_settings_are_not_taken_for_these(sweep_of: Sweeps, shared: dict[str, Any]) -> None:
    sweep_of(vary=VARY).carry_out(Here(), 1, lambda _: None)
    other = sweep_of(vary=VARY, recipe={**shared, "limit_train": 4})
    for found in (other.status(), other.carry_out(Here(), 1, lambda _: None)):
        assert {run.state for run in found} == {"failed"}
        assert all("limit_train is null there and 4 here" in run.reason for run in found)
    assert {run.state for run in sweep_of(vary=VARY).carry_out(Here(), 1, lambda _: None)} == {"finished"}


def test_two_at_once(sweep_of: Sweeps) -> None:
    sweep = sweep_of(vary=VARY)

    class Nested(Here):
        def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
            with pytest.raises(RecipeError, match="Another process is sweeping in"):
                Sweep(sweep.path, sweep.grid).carry_out(Here(), 1, lambda _: None)
            return super().submit(command, resources)

    assert {run.state for run in sweep.carry_out(Nested(), 1, lambda _: None)} == {"finished"}


# ---- the command, with processes


def test_the_command_says_what_it_did(shared: dict[str, Any], tmp_path: Path, nacre: Call) -> None:
    file, place = tmp_path / "mine.yaml", tmp_path / "out"
    grid = {"recipe": {**shared, "rank": 2}, "vary": {"optim.epochs": [1], "method": ["seq_lora", "o_lora"]}}
    file.write_text(yaml.safe_dump(grid))
    before = nacre("sweep", file, "--output", place, "--status")
    assert (before.code, before.out.count("new")) == (0, 2)
    assert not place.exists()
    done = nacre("sweep", file, "--output", place, "--jobs", 2)
    assert (done.code, done.out.count("finished")) == (0, 2)
    assert "2 of 2: method=" in done.err
    told = nacre("sweep", place, "--status", "--json")
    assert [run["state"] for run in json.loads(told.out)] == ["finished", "finished"]
    file.write_text(yaml.safe_dump({**grid, "vary": {**grid["vary"], "limit_test": [1, 0]}}))
    refused = nacre("sweep", file, "--output", place)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "limit_test" in refused.err
    assert nacre("sweep", file, "--engine", "cloud").code == 2


def killed_sweeps(file: Path, place: Path, jobs: int, kills: int, seconds: float, *more: str) -> None:
    """Sweep until all is done, killed so often with SIGKILL on the way."""
    words = [sys.executable, "-m", "nacre", "sweep", str(file), "--output", str(place), "--jobs", str(jobs), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_each_was_trained_once(place: Path, straight: Path) -> None:
    for folder in sorted((straight / "runs").iterdir()):
        assert outcome(place / "runs" / folder.name) == outcome(folder)
        events = [json.loads(line) for line in (place / "runs" / folder.name / "events.jsonl").read_text().splitlines()]
        rows = [event["number"] for event in events if event["event"] == "row"]
        assert rows[-1] == len(NAMES)
        assert sum(event["event"] == "finished" and not event["already"] for event in events) == 1


def test_a_killed_sweep_goes_on(shared: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    recipe = {**shared, "optim": {**shared["optim"], "epochs": 4}}
    file.write_text(yaml.safe_dump({"recipe": recipe, "vary": {"seed": [1, 2, 3]}, "resources": {"threads": 1}}))
    file.write_text(file.read_text().replace("recipe:", "recipe:\n  method: inc_lora"))
    Sweep(tmp_path / "straight", read_grid(file)).carry_out(Here(), 1, lambda _: None)
    killed_sweeps(file, tmp_path / "killed", 2, kills=1, seconds=9)
    assert_each_was_trained_once(tmp_path / "killed", tmp_path / "straight")


def twelve(shared: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "twelve.yaml"
    vary = {"method": ["seq_lora", "inc_lora", "am_lora+migu"], "seed": [1, 2, 3, 4]}
    file.write_text(yaml.safe_dump({"recipe": shared, "vary": vary, "resources": {"threads": 1}}))
    return file


@pytest.mark.long
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_twelve_runs_killed_in_the_middle(shared: dict[str, Any], tmp_path: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    file = twelve(shared, tmp_path)
    Sweep(tmp_path / "straight", read_grid(file)).carry_out(Here(), 1, lambda _: None)
    killed_sweeps(file, tmp_path / "killed", 2, 2, 30, "--engine", engine)
    assert len(list((tmp_path / "killed" / "runs").glob("*/results.json"))) == 12
    assert_each_was_trained_once(tmp_path / "killed", tmp_path / "straight")


@pytest.mark.long
def test_slurm_through_submitit(shared: dict[str, Any], tmp_path: Path) -> None:
    """Its local executor: the same jobs in processes of this machine."""
    pytest.importorskip("submitit")
    from nacre.sweeps.engines.slurm import Slurm

    file = twelve(shared, tmp_path)
    Sweep(tmp_path / "straight", read_grid(file)).carry_out(Here(), 1, lambda _: None)
    sweep = Sweep(tmp_path / "sweep", read_grid(file))
    engine = Slurm(2, tmp_path / "jobs", {}, cluster="local")
    try:
        assert {run.state for run in sweep.carry_out(engine, 1, lambda _: None)} == {"finished"}
    finally:
        engine.close()
    assert_each_was_trained_once(tmp_path / "sweep", tmp_path / "straight")
