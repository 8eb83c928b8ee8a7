"""Folders that an earlier nacre wrote are read: its unfinished runs continue and its saved learners learn on.

`fixtures/format_1` holds models, data, runs that stopped before their last task, saved learners, and in `expected.json`
what the code of that time made of them; `fixtures/format_2` the same of a later time, for the same models and data.
Bits depend on the machine; where `numerics` says that this one computes otherwise, scores are compared loosely and
hashes not at all.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny import tiny_task
from nacre.events import ignore
from nacre.learning import checkpoint
from nacre.learning.contents import Contents
from nacre.learning.learner import Learner
from nacre.models.loading import load_host
from nacre.runs.recipe import read_recipe
from nacre.runs.run import run
from same_bits import hash_of, numerics

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMATS = ("format_1", "format_2")
EXPECTED: dict[str, Any] = {name: json.loads((FIXTURES / name / "expected.json").read_text()) for name in FORMATS}
PLACEHOLDER = "@FOLDER@"


@pytest.fixture(scope="module")
def same_machine() -> bool:
    """Whether this machine computes what the one did that wrote the fixtures."""
    torch.set_num_threads(1)
    same = all(numerics() == expected["numerics"] for expected in EXPECTED.values())
    if not same:
        warnings.warn("This machine rounds otherwise than the fixtures' one: hashes are not compared.", stacklevel=1)
    return same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of copies of the fixtures, whose recipes say where they lie."""
    place = tmp_path_factory.mktemp("old")
    for name in FORMATS:
        shutil.copytree(FIXTURES / name, place / name)
        for shared in ("models", "data"):
            if not (place / name / shared).exists():
                shutil.copytree(FIXTURES / FORMATS[0] / shared, place / name / shared)
        for recipe in (place / name).glob("runs/*/recipe.yaml"):
            recipe.write_text(recipe.read_text().replace(PLACEHOLDER, str(place / name)))
    return place


def every(kind: str) -> list[tuple[str, str]]:
    """Each format with the names of its `runs` or `learners`."""
    return [(number, name) for number in FORMATS for name in sorted(EXPECTED[number][kind])]


def hashes(folder: Path, number: str) -> dict[str, str]:
    """Of each owner's tensors, and of what parts remember, by the names that it had in the format."""
    learner = checkpoint.read(folder)
    found = {name: hash_of(owner.tensors) for name, owner in learner.owners.items() if owner.tensors}
    state = Contents.of(learner).files["state"]
    if number != "format_1":
        return found | {"state": hash_of(state)}
    parameters = learner.method["parameters"]  # the method's own together, and those of each modifier
    several = any(
        part.get("mode") == "separate" for part in [parameters, *parameters.values()] if isinstance(part, dict)
    )
    return found | {"state": hash_of({_name_in_format_1(name, several): tensor for name, tensor in state.items()})}


def _name_in_format_1(name: str, several: bool) -> str:
    """elastic_weights/fisher/0/NAME was elastic_weights/1/fisher/NAME or, without mode=separate, .../fisher/NAME;
    magnitude_mask/groups/NAME was magnitude_mask/NAME."""
    key, kind, rest = name.split("/", 2)
    if key == "magnitude_mask":
        return f"{key}/{rest}"
    number, _, parameter = rest.partition("/")
    return f"{key}/{int(number) + 1}/{kind}/{parameter}" if several else f"{key}/{kind}/{parameter}"


@pytest.mark.parametrize(("number", "name"), every("runs"))
def test_an_unfinished_run_continues(number: str, name: str, folder: Path, same_machine: bool) -> None:
    expected = EXPECTED[number]["runs"][name]
    output = folder / number / "runs" / name
    done = len(list((output / "tasks").iterdir()))
    record = run(read_recipe(output / "recipe.yaml", {}, []), ignore)
    assert len(list((output / "tasks").iterdir())) == len(record.tasks) + 1 > done
    assert record.protocol_hash == expected["protocol_hash"]
    assert record.matrix[:done] == expected["matrix"][:done], "finished rows are read, not measured again"
    if same_machine:
        assert record.matrix == expected["matrix"]
        assert hashes(sorted((output / "tasks").iterdir())[-1], number) == expected["tensors"]
    else:
        torch.testing.assert_close(torch.tensor(record.matrix), torch.tensor(expected["matrix"]), atol=0.35, rtol=0)


@pytest.mark.parametrize(("number", "name"), every("learners"))
def test_a_saved_learner_answers_and_learns_on(
    number: str, name: str, folder: Path, same_machine: bool, tmp_path: Path
) -> None:
    expected = EXPECTED[number]["learners"][name]
    host = load_host(str(folder / number / "models" / expected["model"]))
    learner = Learner.load(folder / number / "learners" / name, host)
    assert learner.state.tasks == ["animals", "plants"]
    answers = learner.predict(expected["inputs"], task=expected["task"])
    learner.learn(tiny_task("tools", 8))
    learner.save(tmp_path / "saved")
    assert hashes(tmp_path / "saved", number).keys() == expected["after"].keys()
    if same_machine:
        assert answers == expected["answers"]
        assert hashes(tmp_path / "saved", number) == expected["after"]
