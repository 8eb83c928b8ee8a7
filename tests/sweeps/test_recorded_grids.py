"""The grids behind docs/results.md mean the runs whose results stand there, setting by setting."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from nacre.assignments import put, validated
from nacre.runs.recipe import Recipe
from nacre.sweeps.grid import cell_of, combinations, read_grid

ROOT = Path(__file__).parents[2]
OWN = ROOT / "experiments" / "grids"
GRIDS = {
    "three_papers": [
        OWN / f"{name}.yaml"
        for name in (
            *("order1", "order1_one_seed", "order1_joint", "order1_baselines", "order1_prompts"),
            *("order4", "ablations"),
        )
    ],
    "lb_cl_starts": [OWN / f"lb_cl_starts_{stream}.yaml" for stream in ("order1", "order4")],
    "domains": [ROOT / "recipes" / "migu" / "table_3_small.yaml"],
}
RUNS = {"three_papers": 136, "lb_cl_starts": 50, "domains": 7}
"""How many recorded runs are of these grids: of the domains those at the rates that were chosen."""


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NACRE_DATA", "data")
    monkeypatch.setenv("NACRE_MODEL", "model")


def meant(name: str, words: list[str]) -> dict[str, Any]:
    """The recipe that a recorded command means, in the places of the grids."""
    benchmark = "das" if name == "domains" else "long_sequence"
    document: dict[str, Any] = {"data": f"$NACRE_DATA/{benchmark}", "model": "$NACRE_MODEL"}
    given = iter(words[2:])
    for word, value in zip(given, given, strict=True):
        if word == "--set":
            key, _, text = value.partition("=")
            put(document, key, yaml.safe_load(text), Recipe)
        elif word == "--stream":
            document["stream"] = value.split(",") if "," in value else value
        elif word not in ("--data", "--model"):
            document[word.removeprefix("--").replace("-", "_")] = yaml.safe_load(value)
    if name == "three_papers" and document["method"] == "lb_cl":
        document.setdefault("set", {}).setdefault("sigma", "average")  # the default when these runs were made
    return validated(Recipe, document, "the command").model_dump()


@pytest.mark.parametrize("name", GRIDS)
def test_every_recorded_run_is_one_of_a_grid(name: str) -> None:
    recipes = []
    for grid in map(read_grid, GRIDS[name]):
        for combination in combinations(grid):
            recipes += [cell.recipe for cell in combination.candidates]
            for chosen in combination.to_choose:
                recipes += [cell_of(grid, point, chosen).recipe for point in combination.runs]
    known = [recipe.model_dump() for recipe in recipes]
    lines = [json.loads(line) for line in (ROOT / f"docs/results/{name}.jsonl").read_text().splitlines()]
    tested = [line for line in lines if name != "domains" or line["kind"] == "test"]
    commands = [shlex.split(line["command"]) for line in tested if "command" in line]
    assert len(commands) == RUNS[name]
    assert [command for command in commands if meant(name, command) not in known] == []


def test_every_grid_is_one_of_them() -> None:
    assert set(OWN.glob("*.yaml")) == {*GRIDS["three_papers"], *GRIDS["lb_cl_starts"]}
