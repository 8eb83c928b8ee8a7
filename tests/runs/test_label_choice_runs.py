"""Runs that choose among labels in other ways: stopped and resumed, in their protocols, and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Call
from helpers.outcome import assert_same
from helpers.tiny import write_task
from nacre.errors import DataError, RecipeError
from nacre.evaluation.settings import Decoding
from nacre.events import Event, OnEvent, as_document, ignore, is_kept
from nacre.files import hash_of
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.records.orders import orders_of
from nacre.records.reading import read_record
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

LABELS = {"animals": ("yes", "no"), "colors": ("red", "no", "green"), "tools": ("yes", "no")}
Recipes = Callable[..., Recipe]


class Stop(Exception):
    """What stands for a crash inside a run."""


def stop_at(place: dict[str, object]) -> OnEvent:
    def stop(event: Event) -> None:
        if is_kept(event) and place.items() <= as_document(event).items():
            raise Stop

    return stop


@pytest.fixture(scope="module")
def recipe(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Recipes:
    data = tmp_path_factory.mktemp("data")
    for name, labels in LABELS.items():
        write_task(data, name, labels, rows=8)

    def made(output: Path, method: str = "inc_lora", decoding: dict[str, Any] | None = None, **changes: Any) -> Recipe:
        fields = {
            "method": method,
            "stream": list(LABELS),
            "data": str(data),
            "model": str(tiny_model("t5")),
            "output": str(output),
            "optim": Optim(learning_rate=0.03, batch_size=4, epochs=2, log_every=1),
            "evaluation": Decoding(decode="labels", **(decoding or {})),
        }
        return Recipe(**{**fields, **changes})

    return made


@pytest.mark.parametrize(
    ("method", "decoding"),
    [
        ("inc_lora", {"label_scores": "prior", "candidates": "union"}),
        ("inc_lora+gaussian_routing", {"label_scores": "match_share", "candidates": "routed_task"}),
    ],
)
def test_a_run_that_was_stopped_goes_on(recipe: Recipes, tmp_path: Path, method: str, decoding: dict[str, Any]) -> None:
    """Between tasks and inside a task; what was calibrated is read from its stage, and not made anew."""
    run(recipe(tmp_path / "straight", method, decoding), ignore)
    output = tmp_path / "run"
    for place in ({"event": "row", "number": 1}, {"event": "step", "step": 2}, {"event": "evaluate", "row": 2}):
        with pytest.raises(Stop):
            run(recipe(output, method, decoding), stop_at(place))
    run(recipe(output, method, decoding), ignore)
    assert_same(output, tmp_path / "straight")
    stages = sorted((output / "tasks").iterdir())
    saved = [json.loads((stage / "state.json").read_text())["calibrations"] for stage in stages[1:]]
    found = Learner.load(stages[-1]).state.calibrations
    for name, own in zip(LABELS, saved, strict=True):
        assert tuple(own[name]["offsets"]) == found[name].offsets  # as when the task was learned
    assert list(saved[-1]) == ["tools"]  # a stage holds what is new


def test_the_protocol_of_plain_answers_is_what_it_was(recipe: Recipes, tmp_path: Path) -> None:
    run(recipe(tmp_path / "run", "seq_lora"), ignore)
    protocol = json.loads((tmp_path / "run" / "protocol.json").read_text())["protocol"]
    assert protocol["decoding"].startswith("of the task's labels, the one with the largest summed log-probability")
    assert not {"label scores", "candidates", "pseudo-rows of label scores"} & protocol.keys()


def test_runs_that_choose_in_other_ways_are_not_ranked(recipe: Recipes, tmp_path: Path, nacre: Call) -> None:
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "mean": {"label_scores": "token_mean"},
        "union": {"candidates": "union"},
        "prior": {"label_scores": "prior"},
        "few": {"label_scores": "prior", "pseudo_rows": 0.0},
    }
    for name, decoding in ways.items():
        run(recipe(tmp_path / name, "seq_lora", decoding, optim=Optim(learning_rate=0.03, epochs=1)), ignore)
    records = {name: (tmp_path / name, read_record(tmp_path / name / "results.json")) for name in ways}
    assert len({record.protocol_hash for _, record in records.values()}) == len(ways)
    for _, record in records.values():
        assert record.protocol_hash == hash_of(record.protocol)
    differences = {
        ("plain", "mean"): "label scores (not set; token_mean)",
        ("plain", "union"): "candidates (not set; union)",
        ("mean", "prior"): "label scores (token_mean; prior)",
        ("mean", "union"): "candidates (true_task; union)",
        ("prior", "few"): "pseudo-rows of label scores (20.0; 0.0)",
    }
    for (one, other), words in differences.items():
        with pytest.raises(RecipeError) as caught:
            orders_of([records[one], records[other]])
        assert words in str(caught.value)
    refused = nacre("compare", tmp_path / "plain", tmp_path / "union")
    assert refused.code == 2
    assert "candidates (not set; union)" in refused.err


def test_the_command_line_takes_rules_and_candidates(recipe: Recipes, tmp_path: Path, nacre: Call) -> None:
    made = recipe(tmp_path / "run")
    common = ("run", "--method", "inc_lora", "--stream", "animals,colors", "--data", made.data, "--model", made.model)
    common = (*common, "--set", "optim.epochs=1", "--output", tmp_path / "run")
    prior = ("--set", "evaluation.label_scores=prior")
    refused = nacre(*common, *prior)
    assert refused.code == 2
    assert "free answers are not chosen among labels; add decode=labels" in refused.err
    common = (*common, "--set", "evaluation.decode=labels")
    for more in ((), ("--dry-run",)):
        refused = nacre(*common, "--set", "evaluation.candidates=routed_task", *more)
        assert refused.code == 2
        assert "candidates=routed_task: inc_lora answers no row as one task" in refused.err
        assert not (tmp_path / "run").exists()
    assert nacre(*common, *prior, "--set", "evaluation.candidates=union").code == 0
    protocol = json.loads((tmp_path / "run" / "protocol.json").read_text())["protocol"]
    assert protocol["label scores"] == "prior"
    assert protocol["candidates"] == "union"
    assert protocol["pseudo-rows of label scores"] == 20
    assert protocol["decoding"].startswith("of the labels of all tasks learned so far, the one with the largest summed")


def test_rows_that_are_measured_do_not_calibrate(recipe: Recipes, tmp_path: Path) -> None:
    made = recipe(tmp_path / "run", decoding={"label_scores": "match_share"}, measure_on="validation")
    with pytest.raises(DataError, match=r"The validation rows of task 'animals' are measured"):
        run(made, ignore)
    assert not (tmp_path / "run").exists()
