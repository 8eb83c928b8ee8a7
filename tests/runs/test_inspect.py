"""`nacre inspect`: figures of finished runs, their numbers, and what cannot be drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Call
from helpers.tiny import write_task
from nacre.events import ignore
from nacre.learning.settings import Optim
from nacre.report.inside import gates_figure, magnitudes_figure, sensitivity_figure
from nacre.runs.directory import RunDirectory
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

TASKS = ["animals", "plants"]


@pytest.fixture(scope="module")
def runs(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each of some methods."""
    place = tmp_path_factory.mktemp("inspected")
    for name in TASKS:
        write_task(place / "data", name)
    for method in ("am_lora", "seq_ft"):
        recipe = Recipe(
            method=method,
            stream=TASKS,
            data=str(place / "data"),
            model=str(tiny_model("t5")),
            output=str(place / method),
            optim=Optim(batch_size=4, learning_rate=1e-3),
        )
        run(recipe, on_event=ignore)
    return place


def drawn(figure: Any, plot: int) -> dict[str, dict[int, float]]:
    """The points of each named line of a plot."""
    lines = zip(*figure.axes[plot].get_legend_handles_labels(), strict=True)
    return {label: dict(zip(map(int, line.get_xdata()), line.get_ydata(), strict=True)) for line, label in lines}


def test_gates_are_those_that_the_run_measured(runs: Path, nacre: Call) -> None:
    said = nacre("inspect", "gates", runs / "am_lora", "--task", "animals")
    assert (said.code, said.err) == (0, "")
    assert said.out.split() == [str(runs / "am_lora" / name) for name in ("gates.png", "gates.numbers.json")]
    document = json.loads((runs / "am_lora" / "gates.numbers.json").read_text())
    assert document == json.loads((runs / "am_lora" / "tasks" / "02-plants" / "gates.json").read_text())
    figure = gates_figure(document, "animals")
    assert [plot.get_title() for plot in figure.axes[:2]] == ["encoder SelfAttention.q", "encoder SelfAttention.v"]
    place = "encoder.block.1.layer.0.SelfAttention.v"
    (site,) = (site for site in document["tasks"]["animals"] if site["site"] == place)
    shown = drawn(figure, 1)
    assert {name: curve[1] for name, curve in shown.items()} == {**dict(site["gates"]), "zero LoRA": site["zero"]}
    assert sum(curve[0] for curve in shown.values()) == pytest.approx(1)


def test_magnitudes(runs: Path, nacre: Call, tmp_path: Path) -> None:
    target = tmp_path / "first.svg"
    said = nacre("inspect", "magnitudes", runs / "seq_ft", "--rows", 3, "--threshold", 0.5, "--output", target)
    assert (said.code, said.err) == (0, "")
    document = json.loads(target.with_suffix(".numbers.json").read_text())
    assert (document["tasks"], document["rows"], document["threshold"]) == (TASKS, 3, 0.5)
    figure = magnitudes_figure(document)
    first = drawn(figure, 0)["animals"]
    assert list(first.values()) == sorted(document["magnitudes"][0], reverse=True)
    place = "decoder.block.0.layer.1.EncDecAttention.k"
    (site,) = (site for site in document["sites"] if site["site"] == place)
    assert drawn(figure, 2)["decoder EncDecAttention.k"][0] == site["overlaps"][0][1]
    again = tmp_path / "again.svg"
    nacre("inspect", "magnitudes", runs / "seq_ft", "--rows", 3, "--threshold", 0.5, "--output", again)
    assert again.read_bytes() == target.read_bytes()


def test_sensitivities(runs: Path, nacre: Call, tmp_path: Path) -> None:
    target = tmp_path / "s.pdf"
    said = nacre("inspect", "sensitivity", runs / "am_lora", "--stage", 1, "--rows", 2, "--output", target)
    assert (said.code, said.err) == (0, "")
    assert target.read_bytes().startswith(b"%PDF")
    document = json.loads(target.with_suffix(".numbers.json").read_text())
    assert {(site["task"], len(site["sensitivity"])) for site in document["sites"]} == {("animals", 1)}
    place = "decoder.block.1.layer.0.SelfAttention.q"
    (site,) = (site for site in document["sites"] if site["site"] == place)
    figure = sensitivity_figure(document)
    for plot, key in enumerate(("sensitivity", "fisher")):
        assert drawn(figure, plot)["decoder SelfAttention.q"][1] == site[key][0]


def test_a_figure_overwrites_nothing_of_the_run(runs: Path, nacre: Call) -> None:
    record = (runs / "am_lora" / "results.json").read_bytes()
    said = nacre("inspect", "gates", runs / "am_lora", "--output", runs / "am_lora" / "results.png")
    assert said.code == 0
    assert (runs / "am_lora" / "results.json").read_bytes() == record


def test_damaged_gates_are_refused(runs: Path, nacre: Call, tmp_path: Path) -> None:
    shutil.copytree(runs / "am_lora", tmp_path / "run")
    file = tmp_path / "run" / "tasks" / "02-plants" / "gates.json"
    file.write_text(file.read_text().replace("0.", "1.", 1))
    said = nacre("inspect", "gates", tmp_path / "run")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "gates.json is damaged" in said.err


def test_stages_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("00-before", "11-b", "100-c", "09-a", "notes"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
    assert [(number, folder.name) for number, folder in RunDirectory(tmp_path).stages.items()] == [
        (0, "00-before"), (9, "09-a"), (11, "11-b"), (100, "100-c")
    ]  # fmt: skip


def test_what_cannot_be_drawn(runs: Path, nacre: Call, tmp_path: Path) -> None:
    lora, whole = runs / "am_lora", runs / "seq_ft"
    for arguments, says in [
        (("gates", whole), "has no gates; am_lora's have them"),
        (("gates", lora, "--task", "plant"), "No gates on a task 'plant' were measured there. Did you mean plants"),
        (("gates", lora, "--stage", 3), "has no learner of stage 3; the last is 02-plants"),
        (("gates", tmp_path), "results.json does not exist"),
        (("gates", lora, "--output", tmp_path / "x.txt"), "its name has to end with .png, .svg, .pdf"),
        (("magnitudes", lora, "--output", tmp_path / "nowhere" / "x.png"), "lies in a folder that does not exist"),
        (("magnitudes", lora, "--stage", 1), "needs two tasks that this learner has learned"),
        (("magnitudes", lora, "--threshold", 1), "is not a share of features from 0 to below 1"),
        (("magnitudes", lora, "--site", "q"), "no linear map of attention or feed-forward named 'q'"),
        (("sensitivity", whole), "seq_ft has no low-rank slots"),
        ((), "Missing command"),
    ]:
        said = nacre("inspect", *arguments)
        assert (said.code, said.err.count("\n"), said.out) == (2, 1, ""), said
        assert says in said.err
    assert not list(tmp_path.iterdir())
