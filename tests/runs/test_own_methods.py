"""Methods that are not nacre's own: in a file, put together in Python; and the folders that runs get."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import nacre
from helpers.command import Call, assert_one_line_error, contents
from helpers.tiny import tiny_host, write_task
from nacre.adapters.low_rank import LowRank
from nacre.errors import CheckpointError, RecipeError
from nacre.evaluation.settings import Decoding
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.parts.penalty import GroupL1
from nacre.records.reading import read_record
from nacre.registry import build_method
from nacre.runs.recipe import Recipe, read_recipe

MINE = '''
from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method


def helper() -> int:
    return 1


@method
def mine(*, rank: int = 2, roles: tuple[str, ...] = ("query",)) -> Method:
    """What it does.

    Args:
        rank: Of each update.
        roles: Where.
    """
    return Method(title="Mine", sources=(), adapter=LowRank(rank=rank, alpha=4.0, roles=roles))
'''
ANOTHER = MINE + MINE.replace("def mine", "def other").replace('"Mine"', '"Other"')
OPTIM = Optim(batch_size=4, learning_rate=0.02, max_source_length=48, max_target_length=8)


@pytest.fixture
def place(tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a method, two tasks and a model in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "both.py").write_text(ANOTHER)
    for name in ("animals", "birds"):
        write_task(tmp_path / "data", name)
    shutil.copytree(tiny_model("t5"), tmp_path / "model")
    return tmp_path


SETTINGS = ("--stream", "animals,birds", "--data", "data", "--model", "model", "--set", "optim.max_source_length=48")


def recipe_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_recipe(folder / "recipe.yaml", {}, []).document()
    return found


# In a file


def test_a_method_in_a_file_is_run_continued_and_shown(place: Path, nacre: Call) -> None:
    done = nacre("run", "--method", "./mine.py", *SETTINGS, "--set", "rank=3", "--output", "one")
    assert (done.code, done.err) == (0, "")
    record = read_record(place / "one" / "results.json")
    assert (record.method, record.title, record.parameters["rank"]) == ("mine.py:mine", "Mine", 3)
    assert recipe_in(place / "one")["method"] == f"{place / 'mine.py'}:mine"
    assert (
        "finished already"
        in nacre("run", "--method", "mine.py:mine", *SETTINGS, "--set", "rank=3", "--output", "one").out
    )
    assert "finished already" in nacre("run", place / "one" / "recipe.yaml").out
    sheet = nacre("methods", "./mine.py").out
    assert "Mine" in sheet
    assert "rank = 2    int" in sheet


def test_a_file_that_was_changed_is_another_method(place: Path, nacre: Call) -> None:
    assert nacre("run", "--method", "mine.py", *SETTINGS, "--output", "one").code == 0
    before = contents(place / "one")
    (place / "mine.py").write_text(MINE + "\n# changed\n")
    assert_one_line_error(nacre("run", "--method", "mine.py", *SETTINGS, "--output", "one"), "method_hash")
    assert_one_line_error(nacre("run", place / "one" / "recipe.yaml"), "was changed since this recipe was written")
    assert contents(place / "one") == before


def test_modifiers_go_with_a_method_in_a_file(place: Path) -> None:
    method = build_method("./both.py:other+migu", {"rank": 3, "migu": {"threshold": 0.5}})
    assert method.name == f"{place / 'both.py'}:other+migu"
    assert method.title == "Other + migu"
    assert build_method(method.name, method.parameters) == method


WRONG = {
    "./both.py": "'both.py' holds 2 methods (mine, other): name one of them, as in both.py:mine.",
    "./nowhere.py": "Method 'nowhere.py': there is no such file.",
    "./mine.py:helper": "'mine.py' has no method 'helper': a function with @method, from nacre.method.",
    "./mine.py:mina": "Did you mean mine?",
    "./broken.py": "'broken.py' cannot be imported: invalid syntax",
    "./needs.py": "'needs.py' cannot be imported: No module named 'nowhere_at_all'.",
    "./empty.py": "'empty.py' has no method 'empty'",
    "./mine.py+migo": "There is no modifier 'migo'",
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("dry", [True, False])
def test_a_wrong_file_is_one_line(name: str, dry: bool, place: Path, nacre: Call) -> None:
    (place / "broken.py").write_text("def (:\n")
    (place / "needs.py").write_text("import nowhere_at_all\n")
    (place / "empty.py").write_text("")
    before = contents(place)
    said = nacre("run", "--method", name, *SETTINGS, *(["--dry-run"] if dry else []))
    assert_one_line_error(said, WRONG[name])
    assert {path for path in contents(place) if "pycache" not in path} == set(before)


def test_no_folder_makes_nacre_run_a_file(place: Path) -> None:
    learner = Learner(tiny_host("t5"), build_method("./mine.py"), optim=OPTIM)
    learner.save(place / "saved")
    with pytest.raises(CheckpointError, match="which is not run unasked"):
        Learner.load(place / "saved", host=tiny_host("t5"))
    assert Learner.load(place / "saved", tiny_host("t5"), build_method("./mine.py")).method == learner.method


# In Python


def by_hand(strength: float = 0.1) -> Method:
    return Method(
        title="By hand",
        sources=(),
        adapter=LowRank(rank=2, alpha=4.0),
        penalties=(GroupL1(group="up", strength=strength),),
    )


def test_a_method_put_together_in_python_is_run(place: Path) -> None:
    given: Any = {"stream": ["animals", "birds"], "data": place / "data", "model": "model", "optim": OPTIM}
    record = nacre.run(by_hand(), output="one", seed=3, evaluation=Decoding(batch_size=3), **given)
    assert (record.method, record.seed, record.tasks) == ("By hand", 3, ["animals", "birds"])
    assert record == read_record(place / "one" / "results.json")
    assert nacre.run(by_hand(), output="one", seed=3, evaluation=Decoding(batch_size=3), **given) == record
    with pytest.raises(RecipeError, match="method_hash"):
        nacre.run(by_hand(0.2), output="one", seed=3, evaluation=Decoding(batch_size=3), **given)
    with pytest.raises(RecipeError, match="There is no method 'By hand'"):
        read_recipe(place / "one" / "recipe.yaml", {}, []).check_names()


def test_a_method_with_a_name_gives_the_run_of_the_command(place: Path, nacre: Call) -> None:
    import nacre as library

    method = build_method("inc_lora+migu", {"rank": 3, "migu": {"threshold": 0.5}})
    record = library.run(method, stream=["animals", "birds"], data="data", model="model", optim=OPTIM, output="one")
    flags = ["optim.batch_size=4", "optim.learning_rate=0.02", "optim.max_target_length=8"]
    flags += ["rank=3", "migu.threshold=0.5"]
    command = ["run", "--method", "inc_lora+migu", *SETTINGS, *(part for flag in flags for part in ("--set", flag))]
    assert nacre(*command, "--output", "two").code == 0
    assert read_record(place / "two" / "results.json").matrix == record.matrix
    assert recipe_in(place / "two") | {"output": ""} == recipe_in(place / "one") | {"output": ""}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optin": {}}, "there is no key 'optin'. Did you mean optim"),
        ({"seed": -1}, "seed = -1"),
        ({"optim": {"batch_size": "x"}}, "optim.batch_size = 'x'"),
        ({"stream": "order9"}, "There is no stream 'order9'"),
    ],
)
def test_mistakes_in_python_are_one_sentence(settings: dict[str, Any], says: str, place: Path) -> None:
    before = contents(place)
    with pytest.raises(RecipeError, match=says):
        nacre.run("inc_lora", **settings)
    assert contents(place) == before


# Folders

NAMES: list[tuple[dict[str, Any], str]] = [
    ({"method": "inc_lora"}, "demo-inc_lora-seed0"),
    ({"method": "inc_lora", "seed": 5}, "demo-inc_lora-seed5"),
    ({"method": "inc_lora", "model": "google/flan-t5-small"}, "demo-inc_lora-flan-t5-small-seed0"),
    ({"method": "inc_lora", "model": "$NACRE_MODEL"}, "demo-inc_lora-_NACRE_MODEL-seed0"),
    ({"method": "inc_lora", "set": {"rank": 4}}, "demo-inc_lora-rank4-seed0"),
    ({"method": "inc_lora", "set": {"rank": 8}}, "demo-inc_lora-seed0"),
    ({"method": "inc_lora+migu", "set": {"migu": {"threshold": 0.5}}}, "demo-inc_lora+migu-threshold0.5-seed0"),
    ({"method": "inc_lora", "limit_train": 64, "optim": {"epochs": 2}}, "demo-inc_lora-limit_train64-epochs2-seed0"),
    ({"method": "inc_lora", "stream": ["topic", "mood"]}, "topic-mood-inc_lora-seed0"),
    ({"method": "inc_lora", "data": "/somewhere"}, "demo-inc_lora-seed0"),
]


@pytest.mark.parametrize(("document", "name"), NAMES)
def test_folders_tell_runs_apart(document: dict[str, Any], name: str) -> None:
    whole = Recipe.model_validate(document).completed()
    assert whole.output == f"runs/{name}"
    again = whole.model_copy(update={"output": None})
    assert again.completed() == whole, "written out, it is the same run"


def test_many_changes_are_a_hash() -> None:
    def name(**settings: Any) -> str:
        recipe = Recipe.model_validate({"method": "inc_lora", "set": settings})
        return Path(str(recipe.completed().output)).name

    several = {"rank": 4, "alpha": 2.0, "dropout": 0.5}
    assert name(**several) == "demo-inc_lora-alpha2-dropout0.5-rank4-seed0"
    lists = [{"roles": ["query"]}, {"roles": ["key"]}, {**several, "roles": ["query"]}]
    assert len({name(**settings) for settings in lists}) == 3
    assert all(len(name(**settings)) == len("demo-inc_lora-12345678-seed0") for settings in lists)


def test_a_runs_recipe_with_another_seed_is_another_run(place: Path, nacre: Call) -> None:
    first = ("run", "--method", "inc_lora", *SETTINGS, "--output", "runs/mine")
    assert nacre(*first).code == 0
    before, recipe = contents(place / "runs" / "mine"), place / "runs" / "mine" / "recipe.yaml"
    plan = json.loads(nacre("run", recipe, "--seed", 5, "--dry-run", "--json").out)
    name = "animals-birds-inc_lora-model-max_source_length48-seed5"
    assert (plan["folder"], plan["recipe"]["output"]) == ("new", str(place / "runs" / name))
    assert nacre("run", recipe, "--seed", 5).code == 0
    assert read_record(place / "runs" / name / "results.json").seed == 5
    assert "finished already" in nacre("run", recipe, "--seed", 0).out
    assert "finished already" in nacre("run", recipe, "--seed", 5, "--output", f"runs/{name}").out
    assert_one_line_error(nacre("run", recipe, "--seed", 7, "--output", "runs/mine"), "was begun with other settings")
    assert contents(place / "runs" / "mine") == before
    copy = place / "recipe.yaml"  # a recipe that is no run's own keeps its output
    copy.write_text(recipe.read_text())
    assert_one_line_error(nacre("run", copy, "--seed", 7), "was begun with other settings")
