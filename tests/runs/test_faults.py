"""A disk that fails, at any operation, once or for good: one error that names the file, and nothing is lost.

The same command afterwards ends with the bits of a run that nothing disturbed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.command import Call
from helpers.faults import ERRORS, FailingDisk
from helpers.outcome import assert_same
from helpers.tiny import write_task
from nacre.errors import NacreError
from nacre.events import ignore
from nacre.learning.settings import Optim
from nacre.records.reading import read_record
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

torch.set_num_threads(1)

NAMES = ("animals", "plants")
METHODS = ("inc_lora", "am_lora", "independent")


Recipes = Callable[[str, Path], Recipe]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Recipes:
    """``recipe(method, output)``: two tasks of two steps each."""
    data, model = tmp_path_factory.mktemp("data"), tiny_model("t5")
    for name in NAMES:
        write_task(data, name, rows=8)

    def made(method: str, output: Path) -> Recipe:
        fields: dict[str, Any] = {"method": method, "stream": list(NAMES), "data": str(data), "model": str(model)}
        return Recipe(**fields, output=str(output), optim=Optim(batch_size=4, learning_rate=0.03))

    return made


@pytest.fixture(scope="module")
def straight(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, int]]:
    """``straight(method)``: the folder of a run that nothing disturbs, and how many operations it takes."""
    made: dict[str, tuple[Path, int]] = {}

    def of(method: str) -> tuple[Path, int]:
        if method not in made:
            output = tmp_path_factory.mktemp("straight") / "run"
            with pytest.MonkeyPatch.context() as patch:
                disk = FailingDisk(patch, output)
                run(recipe(method, output), ignore)
            made[method] = output, disk.count
        return made[method]

    return of


def check(
    recipe: Recipe, straight: Path, output: Path, at: int, number: int, *, ever: bool
) -> tuple[list[str], Exception | None]:
    """One run whose operation `at` fails, and the same again. Returns what failed, and with which error it ended."""
    error: Exception | None = None
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch, output, at, number, ever=ever)
        try:
            run(recipe, ignore)
        except (OSError, NacreError) as stopped:
            error = stopped
    if error is not None:
        assert "\n" not in str(error)
        assert str(output) in str(error) or isinstance(error, OSError)
        if not ever:
            assert [path.name for path in output.rglob("*.partial")] == []
    record = run(recipe, ignore)
    assert record == read_record(output / "results.json")
    assert_same(output, straight)
    assert [path.name for path in output.rglob("*.partial")] == []
    return disk.failed, error


@pytest.mark.parametrize("ever", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("name", ERRORS)
def test_a_disk_that_fails_here_and_there(
    recipe: Recipes,
    straight: Callable[[str], tuple[Path, int]],
    tmp_path: Path,
    name: str,
    ever: bool,
) -> None:
    """Every 37th operation, another one for each error."""
    folder, count = straight("inc_lora")
    assert count > 100
    ended = 0
    for at in range(1 + 11 * list(ERRORS).index(name) + 5 * ever, count + 1, 37):
        output = tmp_path / "run"
        failed, error = check(recipe("inc_lora", output), folder, output, at, ERRORS[name], ever=ever)
        assert failed
        ended += error is not None
        shutil.rmtree(output)
    assert ended > 0


@pytest.mark.long
@pytest.mark.parametrize("ever", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("method", METHODS)
def test_a_disk_that_fails_at_every_operation(
    recipe: Recipes,
    straight: Callable[[str], tuple[Path, int]],
    tmp_path: Path,
    method: str,
    name: str,
    ever: bool,
) -> None:
    folder, count = straight(method)
    for at in range(1, count + 1):
        output = tmp_path / "run"
        failed, _ = check(recipe(method, output), folder, output, at, ERRORS[name], ever=ever)
        assert failed
        shutil.rmtree(output)


@pytest.mark.parametrize("name", ERRORS)
def test_a_command_ends_in_one_line_and_the_same_command_goes_on(
    recipe: Recipes, straight: Callable[[str], tuple[Path, int]], nacre: Call, tmp_path: Path, name: str
) -> None:
    """Every 59th operation, once or for good, another one for each error."""
    folder, count = straight("inc_lora")
    output, ended = tmp_path / "run", 0
    (tmp_path / "recipe.yaml").write_text(recipe("inc_lora", output).yaml())
    for at in range(5 + 17 * list(ERRORS).index(name), count + 1, 59):
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, output, at, ERRORS[name], ever=bool(at % 2))
            said = nacre("run", tmp_path / "recipe.yaml")
        assert disk.failed
        assert said.code in (0, 2)  # 0: what failed was not needed
        assert "Traceback" not in said.out + said.err
        if said.code:
            ended += 1
            assert said.err.startswith("Error: ")
            assert said.err.count("\n") == 1
        assert nacre("run", tmp_path / "recipe.yaml").code == 0
        assert_same(output, folder)
        shutil.rmtree(output)
    assert ended > 0
