"""No page and no table is drawn from a record that was changed, or that cannot be true."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Call, assert_one_line_error, contents
from helpers.tiny import write_task
from nacre.errors import CheckpointError
from nacre.files import hash_of
from nacre.manifest import write_manifest
from nacre.records.reading import read_record

NAMES = ("animals", "plants", "tools")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """A finished run; nobody writes into it."""
    from nacre.events import ignore
    from nacre.learning.settings import Optim
    from nacre.runs.recipe import Recipe
    from nacre.runs.run import run

    folder = tmp_path_factory.mktemp("finished")
    for name in NAMES:
        write_task(folder / "data", name)
    recipe = Recipe(
        method="inc_lora",
        stream=list(NAMES),
        model=str(tiny_model("t5")),
        data=str(folder / "data"),
        output=str(folder / "run"),
        optim=Optim(learning_rate=0.03, batch_size=4),
    )
    run(recipe, ignore)
    return folder / "run"


@pytest.fixture
def finished(straight: Path, tmp_path: Path) -> Path:
    """Its copy, to be damaged."""
    return Path(shutil.copytree(straight, tmp_path / "run"))


def written(folder: Path) -> Document:
    document: Document = json.loads((folder / "results.json").read_text())
    return document


def write(folder: Path, document: Document, *, hashed: bool) -> None:
    """As it is; or with the hash that it should have then."""
    if hashed:
        document.pop("sha256", None)
        document["sha256"] = hash_of(document)
    (folder / "results.json").write_text(json.dumps(document))


def numbers(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all numbers in a document."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(each, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def changed(document: Document, path: tuple[str | int, ...], value: object) -> None:
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value


def number_at(document: Document, path: tuple[str | int, ...]) -> Any:
    place: Any = document
    for key in path:
        place = place[key]
    return place


def test_every_number_is_guarded(straight: Path, finished: Path) -> None:
    places = list(numbers(written(straight)))
    assert len(places) > 60
    for path in places:
        document = written(straight)
        changed(document, path, number_at(document, path) + 0.1)
        write(finished, document, hashed=False)
        with pytest.raises(CheckpointError, match=r"results\.json was changed after the run"):
            read_record(finished / "results.json")


DERIVED = {  # what of a record disagrees first, if this is changed
    "matrix": "learning_accuracy",
    "seconds.train": "seconds.tokens_per_second",
    "training.tokens": "training.padding_share",
    "training.positions": "training.padding_share",
    "trainable_parameters_per_task": "trainable_parameters",
}


@pytest.mark.parametrize(
    "key",
    [
        "average_accuracy", "learning_accuracy", "pooled_accuracy", "incremental_accuracy", "forgetting",
        "backward_transfer", "forward_transfer", "trainable_parameters", "matrix", "valid_answers",
        "seconds.train", "seconds.evaluate", "seconds.tokens_per_second", "training.tokens",
        "training.positions", "training.padding_share", "trainable_parameters_per_task", "protocol_hash",
        "protocol.tasks",
    ],
)  # fmt: skip
def test_what_a_record_derives_is_computed_again(finished: Path, key: str) -> None:
    """Also where the hash was made to agree, as in a record from before there was one."""
    document = written(finished)
    before = number_at(document, tuple(key.split(".")))
    if isinstance(before, list) and isinstance(before[0], list):
        before[1][0] = 0.0 if before[1][0] else 1.0
        new: object = before
    elif isinstance(before, list):
        new = [*before[:-1], {**before[-1], "name": "other"} if isinstance(before[-1], dict) else before[-1] + 1]
    else:
        new = "0" * 64 if isinstance(before, str) else (before or 0) + (1 if isinstance(before, int) else 0.01)
    changed(document, tuple(key.split(".")), new)
    if key == "protocol.tasks":
        document["protocol_hash"] = hash_of(document["protocol"])
    write(finished, document, hashed=True)
    with pytest.raises(CheckpointError) as caught:
        read_record(finished / "results.json")
    assert f": {DERIVED.get(key, key)}: " in str(caught.value)


@pytest.mark.parametrize("key", ["scores", "valid", "train_seconds", "evaluate_seconds", "train_tokens"])
def test_a_record_and_a_stage_that_disagree(finished: Path, key: str) -> None:
    stage = finished / "tasks" / "02-plants"
    row = json.loads((stage / "row.json").read_text())
    row[key] = [0.123] * 3 if isinstance(row[key], list) else row[key] + 1
    (stage / "row.json").write_text(json.dumps(row))
    with pytest.raises(CheckpointError, match=r"row\.json is damaged: its sha256 differs"):
        read_record(finished / "results.json")
    write_manifest(stage)
    with pytest.raises(CheckpointError) as caught:
        read_record(finished / "results.json")
    assert str(stage / "row.json") in str(caught.value)


def without(key: str) -> Callable[[Document], object]:
    return lambda document: document.pop(key)


IMPOSSIBLE: dict[str, Callable[[Document], object]] = {
    "no matrix": without("matrix"),
    "an empty matrix": lambda document: document.update(matrix=[]),
    "a short matrix": lambda document: document["matrix"].pop(),
    "a short row": lambda document: document["matrix"][1].pop(),
    "rows of nothing": lambda document: document.update(matrix=[[], [], [], []]),
    "a score above 1": lambda document: document["matrix"][1].__setitem__(0, 1.5),
    "a score below 0": lambda document: document["matrix"][1].__setitem__(0, -0.5),
    "a text for a score": lambda document: document["matrix"][1].__setitem__(0, "high"),
    "no tasks": lambda document: document.update(tasks=[]),
    "a task twice": lambda document: document.update(tasks=["animals", "animals", "tools"]),
    "a task more": lambda document: document["tasks"].append("more"),
    "a text for tasks": lambda document: document.update(tasks="animals"),
    "short valid answers": lambda document: document["valid_answers"].pop(),
    "empty perplexity": lambda document: document.update(perplexity=[]),
    "short seconds": lambda document: document["seconds"]["train"].pop(),
    "no seconds": lambda document: document["seconds"].update(evaluate=[]),
    "negative seconds": lambda document: document["seconds"]["evaluate"].__setitem__(0, -1.0),
    "short parameters": lambda document: document["trainable_parameters_per_task"].pop(),
    "negative parameters": lambda document: document.update(stored_parameters=-1),
    "short tokens": lambda document: document["training"]["tokens"].pop(),
    "a protocol of another kind": lambda document: document.update(protocol=[]),
    "tasks of another kind": lambda document: document["protocol"].update(tasks="animals"),
    "tasks of numbers": lambda document: document["protocol"].update(tasks=[1, 2, 3]),
    "a base ability of nothing": lambda document: document.update(base_ability={"results": [], "averages": []}),
    "end tasks of nothing": lambda document: document.update(end_tasks=[]),
    "a key more": lambda document: document.update(new=1),
    "a newer schema": lambda document: document.update(schema="nacre.results/99"),
    "no schema": without("schema"),
    "a list for a schema": lambda document: document.update(schema=["nacre.results/1"]),
}


def assert_refused_everywhere(nacre: Call, finished: Path, folder: Path) -> None:
    """Whoever reads the record names it, and nothing in the folder around it changes."""
    before = contents(folder)
    for command in (
        ("report", finished),
        ("compare", finished, "--output", folder / "page.html"),
        ("run", finished / "recipe.yaml", "--output", finished),
    ):
        assert_one_line_error(nacre(*command), finished / "results.json")
    assert contents(folder) == before


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_an_impossible_record_is_refused_everywhere(nacre: Call, finished: Path, tmp_path: Path, kind: str) -> None:
    document = written(finished)
    IMPOSSIBLE[kind](document)
    write(finished, document, hashed=True)
    assert_refused_everywhere(nacre, finished, tmp_path)


BROKEN = {
    "nothing": b"",
    "half": b'{"schema": "nacre.resu',
    "not UTF-8": b'{"schema": "\xff"}',
    "NaN": b'{"schema": NaN}',
    "deep": b"[" * 100_000,
    "a long number": b'{"seed": ' + b"9" * 5000 + b"}",
    "a list": b"[]",
    "a number": b"1",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_refused_everywhere(nacre: Call, finished: Path, tmp_path: Path, kind: str) -> None:
    (finished / "results.json").write_bytes(BROKEN[kind])
    assert_refused_everywhere(nacre, finished, tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_found(straight: Path, finished: Path, seed: int) -> None:
    content = bytearray((straight / "results.json").read_bytes())
    drawn = random.Random(seed)
    content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    (finished / "results.json").write_bytes(content)
    try:
        record = read_record(finished / "results.json")
    except CheckpointError:
        return
    assert record == read_record(straight / "results.json")  # white space


def test_a_record_from_before_the_hash_is_read(straight: Path, finished: Path) -> None:
    document = written(finished)
    for key in ("sha256", "recipe_hash"):
        del document[key]
    write(finished, {**document, "schema": "nacre.results/1"}, hashed=False)
    record = read_record(finished / "results.json")
    assert record == read_record(straight / "results.json").model_copy(update={"recipe_hash": None})


def test_a_record_alone_is_read(straight: Path, tmp_path: Path) -> None:
    """Its stages were deleted, or it was sent to somebody."""
    shutil.copy(straight / "results.json", tmp_path)
    assert read_record(tmp_path / "results.json") == read_record(straight / "results.json")
