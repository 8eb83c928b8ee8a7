"""``nacre run --dry-run``, the variables of the environment in a recipe, and what a run says when it begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command import Call, assert_one_line_error, contents, one_line
from helpers.tiny import write_task
from nacre.errors import RecipeError
from nacre.places import expanded
from nacre.runs import run as runs
from nacre.runs.estimate import spoken
from nacre.runs.plan import plan_of
from nacre.runs.recipe import Recipe

STREAM = "animals,plants,tools"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in {"animals": 12, "plants": 20, "tools": 8}.items():
        write_task(folder, name, rows=rows)
    return folder


@pytest.fixture
def usual(data: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("run", "--stream", STREAM, "--data", data, "--output", tmp_path / "out", "--set", "optim.batch_size=8")


def planned(nacre: Call, *arguments: object) -> dict[str, Any]:
    said = nacre(*arguments, "--dry-run", "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


# What it says.


def test_nothing_is_loaded_or_written(
    nacre: Call, usual: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a dry run needs no model")

    monkeypatch.setattr(runs, "load_host_as", refuse)
    monkeypatch.chdir(tmp_path)
    said = nacre(*usual, "--method", "seq_lora", "--model", "t5-large", "--dry-run")
    assert said.code == 0
    assert "model          t5-large\n" in said.out
    assert contents(tmp_path) == {}


def test_tasks_rows_and_steps(nacre: Call, usual: tuple[object, ...]) -> None:
    settings = ("--set", "optim.epochs=[1,2,3]", "--set", "optim.learning_rate=[0.01,0.02,0.03]")
    found = planned(nacre, *usual, "--method", "o_lora", *settings, "--set", "shrinkage=[0,0.1,0.2]")
    keys = ("name", "rows", "kept", "epochs", "learning_rate", "steps")
    assert [tuple(stage[key] for key in keys) for stage in found["stages"]] == [
        ("animals", 12, 0, 1, 0.01, 2),
        ("plants", 20, 0, 2, 0.02, 6),
        ("tools", 8, 0, 3, 0.03, 3),
    ]
    assert [stage["penalties"] for stage in found["stages"]] == [
        {"orthogonality": 0.5, "norm_penalty": weight} for weight in (0, 0.1, 0.2)
    ]
    assert found["missing"] == []
    assert found["folder"] == "new"
    assert found["recipe"]["set"]["rank"] == 8


def test_limits_count(nacre: Call, usual: tuple[object, ...]) -> None:
    found = planned(nacre, *usual, "--method", "seq_lora", "--limit-train", "9")
    assert [(stage["rows"], stage["steps"]) for stage in found["stages"]] == [(9, 2), (9, 2), (8, 1)]


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("joint", [("joint", ["animals", "plants", "tools"], 1, 40, 5)]),
        (
            "independent",
            [("animals", ["animals"], 1, 12, 2), ("plants", ["plants"], 1, 20, 3), ("tools", ["tools"], 1, 8, 1)],
        ),
    ],
)
def test_other_curricula(nacre: Call, usual: tuple[object, ...], method: str, stages: list[tuple[Any, ...]]) -> None:
    found = planned(nacre, *usual, "--method", method)
    keys = ("name", "tasks", "task_number", "rows", "steps")
    assert [tuple(stage[key] for key in keys) for stage in found["stages"]] == stages


@pytest.mark.parametrize(
    ("method", "matrix", "answers", "total"),
    [
        ("seq_lora", "full", [18, 18, 18], 72),
        ("seq_lora", "seen", [6, 12, 18], 36),
        ("seq_lora", "last", [0, 0, 18], 18),
        ("joint", "full", [18], 36),
        ("independent", "full", [6, 6, 6], 36),
    ],
)
def test_answers_are_counted(
    nacre: Call, usual: tuple[object, ...], method: str, matrix: str, answers: list[int], total: int
) -> None:
    """Three tasks with six test rows each; row 0 is measured for the full matrix only."""
    given = (*usual, "--method", method, "--set", f"matrix={matrix}")
    found = planned(nacre, *given)
    assert [stage["answers"] for stage in found["stages"]] == answers
    assert found["answers"] == total
    assert f"{total} answers in all" in one_line(nacre(*given, "--dry-run").out)
    assert planned(nacre, *given, "--limit-test", "2")["answers"] == total // 3


@pytest.mark.parametrize("method", ["inc_lora", "joint", "independent"])
def test_a_run_is_estimated_from_a_few_steps(
    nacre: Call, usual: tuple[object, ...], tmp_path: Path, tiny_model: Any, method: str
) -> None:
    given = (*usual, "--method", method, "--model", tiny_model("t5"), "--set", "optim.epochs=3")
    said = nacre(*given, "--estimate", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    estimate, plan = found["estimate"], planned(nacre, *given)
    assert not (tmp_path / "out").exists()
    assert plan["estimate"] is None
    assert [stage["name"] for stage in estimate["stages"]] == [stage["name"] for stage in plan["stages"]]
    for stage, known in zip(estimate["stages"], plan["stages"], strict=True):
        assert stage["train"] == pytest.approx(known["steps"] * stage["step"] + stage["around"])
        assert stage["evaluate"] == pytest.approx(known["answers"] * stage["answer"])
        assert min(stage["step"], stage["answer"]) > 0
    assert estimate["before"] > 0
    assert estimate["memory_bytes"] > 2**20
    assert "Estimate: about " in one_line(nacre(*given, "--estimate").out)


def test_an_estimate_needs_the_data(nacre: Call, tmp_path: Path) -> None:
    said = nacre("run", "--method", "seq_lora", "--stream", "order1", "--estimate")
    assert_one_line_error(said, "--estimate needs all that a run needs. data: the folder that holds the stream's tasks")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (59.4, "59.4 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (7260, "2 h 1 min")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_gradient_rules_in_their_order(nacre: Call, usual: tuple[object, ...]) -> None:
    for method in ("inc_lora+migu+orthogonal_gradient", "inc_lora+orthogonal_gradient+migu"):
        said = nacre(*usual, "--method", method, "--dry-run")
        lines = [line[15:] for line in said.out.splitlines() if line.startswith(("gradient rules", " " * 15))]
        names = {"migu": "MagnitudeMask", "orthogonal_gradient": "OrthogonalGradient"}
        order = [names[modifier] for modifier in method.split("+")[1:]]
        assert [line.partition("(")[0] for line in lines if line[:1].isdigit()] == [
            f"1. {order[0]}",
            f"2. {order[1]}",
            "3. clipping to norm 1",
        ]
        keys = {"MagnitudeMask": "magnitude_mask", "OrthogonalGradient": "orthogonal_gradient"}
        found = planned(nacre, *usual, "--method", method)
        assert [part["key"] for part in found["gradient_rules"]] == [keys[name] for name in order]


def test_a_demo_needs_no_data(nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = planned(nacre, "run", "--method", "seq_lora")
    assert found["missing"] == []
    assert [stage["name"] for stage in found["stages"]] == ["topic", "mood", "place", "request"]
    assert [stage["steps"] for stage in found["stages"]] == [30] * 4
    assert planned(nacre, "run", "--method", "seq_lora", "--stream", "mood,topic")["stages"][0]["steps"] == 30


# What is missing is said; what is wrong is refused as in a real run.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "data: the folder that holds the stream's tasks is not given; pass --data."),
        (("--data", "nowhere"), "data: the folder nowhere does not exist."),
        (("--data", "$NOT_SET/x"), "data = $NOT_SET/x: the environment variable NOT_SET is not set; set it, or pass"),
        (("--data", "hub:someone/something"), "data: hub:someone/something is read over the network"),
    ],
)
def test_without_the_data(
    nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("run", "--method", "lora_replay", "--stream", "order1", *options)
    found = planned(nacre, *command)
    (missing,) = found["missing"]
    assert missing.startswith(sentence)
    assert [(stage["rows"], stage["kept"], stage["steps"]) for stage in found["stages"]] == [
        (None, kept, None) for kept in (0, None, None, None)
    ]
    said = nacre(*command, "--dry-run")
    assert said.code == 0
    assert f"Missing: {sentence}" in said.out
    assert "unknown" in said.out
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--method", "seq_lro"), ("There is no method 'seq_lro'",)),
        (("--method", "seq_lora", "--set", "rank=0"), ("rank: 0 is not a positive number",)),
        (("--method", "seq_lora+orthogonality"), ("orthogonality cannot be a part of seq_lora",)),
        (("--method", "seq_lora", "--stream", "animals,tols"), ("Task 'tols' is not in ",)),
        (("--method", "seq_lora", "--stream", "ordr1", "--data", "nowhere"), ("There is no stream 'ordr1'",)),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused(
    nacre: Call, usual: tuple[object, ...], options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_one_line_error(nacre(*usual, *options, "--dry-run"), *parts)


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("method", "setting", "sentence"),
    [
        ("seq_lora", "optim.epochs=[1,2]", "optim.epochs lists 2 value(s), and seq_lora takes 3 on this stream"),
        ("seq_lora", "optim.learning_rate=[1,1,1,1]", "optim.learning_rate lists 4 value(s), and seq_lora takes 3"),
        ("am_lora", "sparsity=[0,0,0,0]", "sparsity lists 4 value(s), and am_lora takes 3"),
        ("seq_lora+migu", "migu.threshold=[0.5]", "migu.threshold lists 1 value(s), and seq_lora+migu takes 3"),
        ("joint", "optim.epochs=[1,2,3]", "optim.epochs lists 3 value(s), and joint takes 1"),
        ("independent", "optim.epochs=[1,2,3]", "optim.epochs lists 3 value(s), and independent takes 1"),
    ],
)
def test_a_list_of_the_wrong_length_stops_a_run_before_it_begins(
    nacre: Call, usual: tuple[object, ...], tmp_path: Path, method: str, setting: str, sentence: str, dry: bool
) -> None:
    said = nacre(*usual, "--method", method, "--set", setting, *(["--dry-run"] if dry else []))
    assert_one_line_error(said, sentence)
    assert contents(tmp_path) == {}


# Variables of the environment.


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE_1", "/somewhere")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert expanded("data", "$HERE_1/tasks") == "/somewhere/tasks"
    assert expanded("data", "${HERE_1}tasks/$HERE_1") == "/somewheretasks//somewhere"
    assert expanded("data", "a$/b and 5$") == "a$/b and 5$"
    for name in ("NOT_SET", "EMPTY"):
        with pytest.raises(RecipeError, match=rf"model = \$\{{{name}\}}/x: the environment variable {name} is not set"):
            expanded("model", f"${{{name}}}/x")


def test_places_of_a_recipe(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS", str(data.parent))
    monkeypatch.setenv("RESULTS", str(tmp_path))
    recipe = Recipe(
        method="seq_lora", stream=["tools"], data=f"$TASKS/{data.name}", output="$RESULTS/a-seed{seed}", seed=7
    )
    resolved = recipe.resolved()
    assert (resolved.data, resolved.output) == (str(data), str(tmp_path / "a-seed7"))
    assert resolved.resolved() == resolved
    assert plan_of(recipe).missing == []


def test_a_real_run_stops_at_a_variable_that_is_not_set(
    nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NACRE_DATA", raising=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: seq_lora\nstream: order1\ndata: $NACRE_DATA/long_sequence\n")
    before = contents(tmp_path)
    sentence = (
        "data = $NACRE_DATA/long_sequence: the environment variable NACRE_DATA is not set; set it, or pass --data."
    )
    assert_one_line_error(nacre("run", recipe), sentence)
    assert contents(tmp_path) == before
    assert "nowhere does not exist" in nacre("run", recipe, "--data", "nowhere").err  # the flag comes before the recipe


# A run does what its dry run said.


@pytest.fixture
def carried_out(
    nacre: Call, usual: tuple[object, ...], tiny_model: Callable[[str], Path], tmp_path: Path
) -> tuple[list[object], str, Path]:
    """A command, what its run printed, and the run's folder."""
    method = ("--method", "lora_replay+migu+l1", "--set", "l1.group=up", "--set", "fraction=0.25")
    command = [*usual, *method, "--model", tiny_model("t5"), "--set", "optim.epochs=[2,1,1]"]
    said = nacre(*command)
    assert said.code == 0, said.err
    return command, said.out, tmp_path / "out"


def test_a_run_does_what_its_dry_run_said(
    nacre: Call, carried_out: tuple[list[object], str, Path], tmp_path: Path
) -> None:
    command, printed, output = carried_out
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    begun = next(event for event in events if event["event"] == "run")
    assert begun["penalties"] == ["l1_up"]
    assert begun["gradient_rules"] == ["magnitude_mask"]
    assert "Added to the loss: l1_up Between gradients and step, in this order: magnitude_mask" in one_line(printed)

    found = planned(nacre, *command)
    assert found["folder"] == "finished"
    assert [part["key"] for part in found["gradient_rules"]] == begun["gradient_rules"]
    steps = [event["steps"] for event in events if event["event"] == "step" and event["step"] == event["steps"]]
    rows = [event["rows"] for event in events if event["event"] == "rows"]
    assert [stage["steps"] for stage in found["stages"]] == steps == [4, 3, 2]
    assert [stage["rows"] + stage["kept"] for stage in found["stages"]] == rows == [12, 20 + 3, 8 + 3 + 5]
    assert yaml.safe_load((output / "recipe.yaml").read_text()) == found["recipe"]

    before = contents(tmp_path)
    assert "(finished; nothing would be run)" in nacre(*command, "--dry-run").out
    assert_one_line_error(nacre(*command, "--seed", "4", "--dry-run"), "seed is 0 there and 4 here")
    (output / "results.json").unlink()
    assert "(begun; it would be continued after the last finished task)" in nacre(*command, "--dry-run").out
    assert contents(tmp_path) == {name: digest for name, digest in before.items() if name != "out/results.json"}


def test_an_output_that_holds_other_things(nacre: Call, usual: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert planned(nacre, *usual, "--method", "seq_lora")["folder"] == "new"
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    said = nacre(*usual, "--method", "seq_lora", "--dry-run")
    assert_one_line_error(said, "holds other things and no recipe.yaml")
