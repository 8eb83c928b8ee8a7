"""Probes: everything that shows, stores or compares them goes over the fields of `Recipe` and `RunRecord`."""

from __future__ import annotations

from pathlib import Path

import pytest

import nacre
from nacre.errors import RecipeError
from nacre.records.run import RunRecord, all_metrics, probe_kinds
from nacre.runs.recipe import Recipe, places, probe_settings, training_settings

ROOMS = ("cli", "report", "records", "measuring", "runs")


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("base_ability", ("base_ability", "BaseAbility", "AbilityRecord")),
        ("end_tasks", ("end_tasks", "FineTuning", "EndTaskRecord")),
    ],
)
def test_a_probe_is_its_own_files_and_two_fields(key: str, names: tuple[str, ...]) -> None:
    """Settings and measuring, the result, and a field each in the recipe and in the record."""
    source = Path(nacre.__file__).parent
    naming = {
        str(file.relative_to(source))
        for room in ROOMS
        for file in (source / room).rglob("*.py")
        if any(name in _code(file) for name in names)
    }
    probe = {f"measuring/probes/{key}.py", f"measuring/probes/{key}_measurement.py"}
    assert naming == {*probe, f"records/{key}.py", "runs/recipe.py", "records/run.py"}


def _code(file: Path) -> str:
    """The lines of a file that are not of its docstrings."""
    return "".join(file.read_text().split('"""')[::2])


def test_a_probe_has_one_name_in_recipes_and_records() -> None:
    assert list(probe_settings()) == ["end_tasks", "base_ability"]
    assert len(probe_kinds()) == len(probe_settings())
    assert set(probe_settings()) < set(RunRecord.model_fields)
    assert places() == ("model", "data", "output", "stream", "base_ability.data")


def test_metrics_have_names_of_their_own() -> None:
    keys = [metric.key for metric in all_metrics()]
    assert len(set(keys)) == len(keys)
    for kind in probe_kinds():
        assert {metric.key for metric in kind.metrics} <= set(keys)


def test_what_does_not_affect_training_is_marked_on_the_field() -> None:
    document = Recipe(method="seq_lora", set={"rank": 4}).document()
    held = ["model_dtype", "model_quantization", "model_attention"]
    assert list(training_settings(document)) == ["method_hash", "model_dropout", *held, "optim", "end_tasks"]


def test_one_setting_of_a_recipe_is_changed() -> None:
    recipe = Recipe(method="seq_lora")
    assert recipe.with_setting("optim.batch_size", 3).optim.batch_size == 3
    assert recipe.with_setting("rank", 4).parameters == {"rank": 4}
    assert recipe.with_setting("seed", 2).with_setting("seed", 0) == recipe
    with pytest.raises(RecipeError, match=r"there is no key 'optim\.batchsize'\. Did you mean batch_size"):
        recipe.with_setting("optim.batchsize", 3)
    with pytest.raises(RecipeError, match="'seed' is a single value and has no keys"):
        recipe.with_setting("seed.x", 3)
