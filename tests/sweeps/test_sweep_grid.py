"""Grids: which runs they stand for, how these are called, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nacre.errors import RecipeError
from nacre.sweeps.grid import SweepSettings, read_grid
from nacre.sweeps.sweep import Sweep


def written(tmp_path: Path, document: Any) -> Path:
    file = tmp_path / "grid.yaml"
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
    return file


def sweep_of(tmp_path: Path, **grid: Any) -> Sweep:
    return Sweep(tmp_path / "sweep", read_grid(written(tmp_path, grid)))


def test_every_combination_is_a_run(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        recipe={"stream": ["topic", "mood"], "optim": {"batch_size": 4}, "rank": 2, "optim.epochs": 3},
        vary={"method": ["seq_lora", "o_lora+migu"], "seed": [1, 2], "optim.learning_rate": [1e-3]},
    )
    runs = {cell.name: cell.recipe for cell in sweep.runs()}
    assert list(runs) == [
        "method=seq_lora,learning_rate=0.001,seed=1",
        "method=seq_lora,learning_rate=0.001,seed=2",
        "method=o_lora+migu,learning_rate=0.001,seed=1",
        "method=o_lora+migu,learning_rate=0.001,seed=2",
    ]
    recipe = runs["method=o_lora+migu,learning_rate=0.001,seed=2"]
    assert (recipe.method, recipe.seed, recipe.stream) == ("o_lora+migu", 2, ["topic", "mood"])
    assert recipe.parameters == {"rank": 2}
    assert (recipe.optim.batch_size, recipe.optim.epochs, recipe.optim.learning_rate) == (4, 3, 1e-3)
    assert sweep.candidates() == []


def test_several_settings_at_a_time_have_a_name(tmp_path: Path) -> None:
    variants = {"whole": {"method": "lb_cl"}, "no basis": {"method": "lb_cl", "variant": "l_cl"}}
    sweep = sweep_of(tmp_path, vary={"variant": variants, "stream": [["topic", "mood"]]})
    assert {cell.name: cell.recipe.parameters for cell in sweep.runs()} == {
        "stream=topic-mood,variant=whole": {},
        "stream=topic-mood,variant=no_basis": {"variant": "l_cl"},
    }


def test_names_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    vary = {"seed": [1, 2], "rank": [4], "method": ["seq_lora"]}
    one = sweep_of(tmp_path, vary=vary)
    other = sweep_of(tmp_path, vary=dict(reversed(vary.items())))
    assert (
        {cell.name for cell in one.runs()}
        == {cell.name for cell in other.runs()}
        == {
            "method=seq_lora,rank=4,seed=1",
            "method=seq_lora,rank=4,seed=2",
        }
    )


def test_a_grid_without_anything_that_varies_is_one_run(tmp_path: Path) -> None:
    assert [cell.name for cell in sweep_of(tmp_path, recipe={"method": "seq_lora"}).runs()] == ["run"]


def test_rates_are_chosen_on_validation_rows_once_for_all_seeds(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        recipe={"limit_test": 50},
        vary={"method": ["seq_lora", "inc_lora"], "stream": ["order1", "order4"], "seed": [3, 4]},
        choose={"vary": {"optim.learning_rate": [1e-3, 5e-3]}, "with": {"stream": ["dbpedia", "amazon"]}},
    )
    candidates = sweep.candidates()
    assert [cell.name for cell in candidates] == [
        f"choice/method={method},learning_rate={rate},seed=3"
        for method in ("seq_lora", "inc_lora")
        for rate in ("0.001", "0.005")
    ]
    assert {cell.recipe.measure_on for cell in candidates} == {"validation"}
    assert {tuple(cell.recipe.stream) for cell in candidates} == {("dbpedia", "amazon")}
    assert {cell.recipe.limit_test for cell in candidates} == {50}
    assert sweep.runs() == []  # nothing is chosen yet
    assert {run.state for run in sweep.status()} == {"new", "waiting"}
    assert len(sweep.status()) == 4 + 8


def test_long_names_are_cut_and_stay_apart(tmp_path: Path) -> None:
    values = [["topic", "mood"] * 30, ["topic", "mood"] * 30 + ["place"]]
    names = [cell.name for cell in sweep_of(tmp_path, recipe={"method": "seq_lora"}, vary={"stream": values}).runs()]
    assert len(set(names)) == 2
    assert all(len(name) <= 100 for name in names)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "must hold keys and values"),
        ("[1]", "must hold keys and values"),
        ("vary: {method: [a", "is not valid YAML"),
        ({"recipes": {}}, "recipes"),
        ({"vary": {"method": []}}, "vary"),
        ({"vary": {"method": "seq_lora"}}, "vary"),
        ({"vary": {"seed": [1]}}, "Run 'seed=1' needs a method"),
        ({"recipe": {"method": "seq_lora"}, "vary": {"seed": ["x"]}}, "seed"),
        ({"recipe": {"method": "seq_lora"}, "vary": {"seed": [1, 1]}}, "Two runs of the grid are called 'seed=1'"),
        ({"recipe": {"method": "seq_lora", "output": "x"}}, "output is the sweep's to choose"),
        ({"recipe": {"method": "seq_lora"}, "vary": {"output": ["x", "y"]}}, "output is the sweep's to choose"),
        (
            {
                "recipe": {"method": "seq_lora"},
                "vary": {"optim.learning_rate": [1]},
                "choose": {"vary": {"optim.learning_rate": [1]}},
            },
            "optim.learning_rate is varied, and cannot be chosen as well",
        ),
        ({"recipe": {"method": "seq_lora"}, "choose": {"vary": {"rank": [1]}, "by": "luck"}}, "no metric 'luck'"),
        ({"recipe": {"method": "seq_lora"}, "choose": {"vary": {}}}, "choose"),
        ({"recipe": {"method": "seq_lora"}, "resources": {"threads": 0}}, "threads"),
        ({"recipe": {"method": "no_such"}, "vary": {"seed": [1]}}, "no_such"),
        ({"recipe": {"method": "seq_lora", "rnak": 3}, "vary": {"seed": [1]}}, "rnak"),
        ({"recipe": {"method": "seq_lora", "stream": "order99"}, "vary": {"seed": [1]}}, "order99"),
    ],
)
def test_what_is_no_grid(tmp_path: Path, document: Any, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Sweep(tmp_path / "sweep", read_grid(written(tmp_path, document)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sweep").exists()


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Grid '.*' does not exist"):
        read_grid(tmp_path / "none.yaml")


def test_a_grid_comes_back_from_its_folder(tmp_path: Path) -> None:
    grid = SweepSettings(
        recipe={"stream": "order1"},
        vary={"method": ["seq_lora"], "variant": {"a": {"rank": 2}}},
        choose={"vary": {"optim.learning_rate": [1e-3]}, "with": {"limit_test": 3}},  # type: ignore[arg-type]
    )
    document = grid.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    assert read_grid(written(tmp_path, document)) == grid
