"""Published tables: what was said, what runs have come to, and the recipes that hold both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command import Call
from helpers.tiny import write_task
from nacre.errors import RecipeError
from nacre.records.reading import read_record
from nacre.sweeps.grid import read_grid
from nacre.sweeps.published import PublishedTable, as_markdown, cells_of
from nacre.sweeps.sweep import Sweep

RECIPES = Path(__file__).parents[2] / "recipes"
GRIDS = sorted(
    str(file.relative_to(RECIPES)) for file in RECIPES.rglob("*.yaml") if "\nvary:" in file.read_text("utf-8")
)

PUBLISHED = {
    "source": "A paper, Table 1",
    "rows": "method",
    "numbers": {"paper": {"seq_lora": 12.5, "o_lora": None}, "released code": {"seq_lora": 13}},
    "expected": {"seq_lora": [0, 100], "o_lora": [101, 102]},
}


@pytest.fixture
def grid(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A grid's file: two tiny methods, one seed, what was published, and more keys."""
    for name in ("animals", "plants"):
        write_task(tmp_path / "data", name, rows=8)
    recipe = {
        "stream": ["animals", "plants"],
        "data": str(tmp_path / "data"),
        "model": str(tiny_model("t5")),
        "optim": {"batch_size": 4, "learning_rate": 0.03},
    }

    def written(**more: Any) -> Path:
        file = tmp_path / "table.yaml"
        vary = {"method": ["seq_lora", "o_lora"], "seed": [1]}
        file.write_text(yaml.safe_dump({"recipe": recipe, "vary": vary, "published": PUBLISHED, **more}))
        return file

    return written


def test_a_table_is_reproduced(grid: Callable[..., Path], tmp_path: Path, nacre: Call) -> None:
    file, place = grid(), tmp_path / "out"
    before = nacre("reproduce", file, "--output", place, "--show")
    assert before.code == 0
    assert before.out.splitlines()[0] == "A paper, Table 1; average_accuracy, %."
    assert not place.exists()
    done = nacre("reproduce", file, "--output", place, "--jobs", 2)
    assert done.code == 0, done.err
    shown = nacre("reproduce", place, "--show", "--json")
    first, second = json.loads(shown.out)
    record = read_record(place / "runs" / "method=seq_lora,seed=1" / "results.json")
    assert first["found"] == [100 * (record.value("average_accuracy") or 0)]
    assert (first["said"], first["place"]) == ({"paper": 12.5, "released code": 13}, "within")
    assert (second["said"], second["place"]) == ({}, "below")
    table = (place / "table.md").read_text().splitlines()
    assert table[2] == "| method | paper | released code | nacre | runs | expected | the mean is |"
    assert table[4].startswith("| seq_lora | 12.5 | 13.0 | ")
    drawn = nacre("report", place)
    assert (drawn.code, drawn.out.strip()) == (0, str(place / "figure.png"))
    assert (place / "figure.png").read_bytes().startswith(b"\x89PNG")
    settings = yaml.safe_load((place / "grid.yaml").read_text())
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "grid.yaml").write_text(
        yaml.safe_dump({**settings, "recipe": {**settings["recipe"], "model": "$NOWHERE"}})
    )
    (place / "runs").rename(tmp_path / "moved" / "runs")
    unknown = nacre("report", tmp_path / "moved")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "counts as finished. The first: model = $NOWHERE: the environment variable NOWHERE is not set" in unknown.err
    refused = nacre("report", place, "--output", place / "figure.txt")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "its name has to end with .png, .svg, .pdf" in refused.err


def test_a_grid_without_a_table_is_refused(grid: Callable[..., Path], nacre: Call) -> None:
    said = nacre("reproduce", grid(published=None))
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "does not say what was published" in said.err


@pytest.mark.parametrize(
    ("published", "complaint"),
    [
        ({"rows": "system"}, "'system' is not varied; method, seed are"),
        ({"columns": "stream"}, "'stream' is not varied"),
        ({"numbers": {"paper": {"ewc": 1}}}, "method has no 'ewc'"),
        ({"numbers": {"paper": {"o_lora": {"order1": 1}}}}, "a table of one column has no 'order1'"),
        ({"by": "luck"}, "there is no metric 'luck'"),
        ({"expected": {"o_lora": [1]}}, "published.expected.o_lora"),
    ],
)
def test_what_is_not_in_the_grid_is_refused(
    grid: Callable[..., Path], published: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        read_grid(grid(published={**PUBLISHED, **published}))
    assert complaint in str(raised.value)


def test_some_runs_have_settings_of_their_own(grid: Callable[..., Path]) -> None:
    where = [{"runs": {"method": "o_lora"}, "use": {"rank": 2, "optim.epochs": 3}}]
    cells = {cell.names["method"]: cell.recipe for cell in Sweep(Path("none"), read_grid(grid(where=where))).runs()}
    assert cells["o_lora"].parameters == {"rank": 2}
    assert (cells["o_lora"].optim.epochs, cells["seq_lora"].optim.epochs) == (3, 1)
    assert cells["seq_lora"].parameters == {}
    with pytest.raises(RecipeError, match="there is no 'ewc'; known: seq_lora, o_lora"):
        read_grid(grid(where=[{"runs": {"method": "ewc"}, "use": {"rank": 2}}]))
    with pytest.raises(RecipeError, match="there is no 'stream'; known: method, seed"):
        read_grid(grid(where=[{"runs": {"stream": "order1"}, "use": {"rank": 2}}]))


def test_columns_and_missing_runs() -> None:
    published = PublishedTable.model_validate(
        {"source": "S", "rows": "a", "columns": "b", "numbers": {"paper": {"x": {"u": 1.0}}}}
    )
    axes = {"a": ["x", "y"], "b": ["u", "v"]}
    published.check(axes)
    cells = cells_of(published, axes, [])
    assert [(cell.row, cell.column, dict(cell.said)) for cell in cells] == [
        ("x", "u", {"paper": 1.0}), ("x", "v", {}), ("y", "u", {}), ("y", "v", {}),
    ]  # fmt: skip
    assert as_markdown(published, cells).count("| - | 0 | - |  |") == 4


@pytest.mark.parametrize("name", GRIDS)
def test_every_published_grid_can_be_carried_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NACRE_MODEL", "demo")
    monkeypatch.setenv("NACRE_DATA", "/nowhere")
    sweep = Sweep(Path("none"), read_grid(RECIPES / name))
    assert sweep.grid.published is not None
    for cell in sweep.runs():
        cell.recipe.build()
    assert len(sweep.runs()) >= 4


def test_the_lambdas_of_each_order() -> None:
    """AM-LoRA, appendix 7.2: RTE's is 0.3 in order 4, and boolqa's 0.0001 in order 5."""
    cells = Sweep(Path("none"), read_grid(RECIPES / "am_lora" / "table_1.yaml")).runs()
    found = {cell.names["stream"]: cell.recipe for cell in cells if cell.names["system"] == "AM-LoRA"}
    sparsity = {order: recipe.parameters["sparsity"] for order, recipe in found.items()}
    assert (sparsity["order1"], sparsity["order6"]) == (1e-5, 0.001)
    for order, task, value in (("order4", "rte", 0.3), ("order4", "mnli", 0), ("order5", "boolqa", 0.0001)):
        assert sparsity[order][list(found[order].task_names).index(task)] == value
    assert {cell.recipe.method for cell in cells if cell.names["system"] == "O-LoRA"} == {"o_lora"}
