"""Whatever stands in a file or behind a flag, a reader reads it or refuses it with one of nacre's errors.

Rows and task cards have their own (`tasks/test_malformed.py`).
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.tiny import write_task
from nacre.errors import NacreError
from nacre.events import ignore
from nacre.files import hash_of
from nacre.learning.checkpoint import read as read_learner
from nacre.learning.settings import Optim
from nacre.manifest import write_manifest
from nacre.models.loading import load_host
from nacre.records.reading import read_record
from nacre.runs.plan import plan_of
from nacre.runs.recipe import Recipe, read_recipe
from nacre.runs.run import run
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.reading.stream_file import read_stream

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "~nobody", "../x", "\x1b[31m", "\0", "1e400", "2020-01-01", "$HOME", "hub:x", "x" * 300])
    | st.sampled_from([0, -1, 2**31, 2**63, 1e308, -1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SIGNS = st.text(alphabet="ab1-:,[]{}&*!|>'\"#%@`?~\n\t =.\r\0é\u2028", max_size=60)

FIELDS = ("name", "train", "test", "validation", "labels", "license", "instruction", "metric", "family", "kind",
          "fields", "options", "answer_cue", "hub", "x")  # fmt: skip
STREAM = st.dictionaries(
    st.sampled_from(["name", "title", "tasks", "identity", "source", "x"]),
    VALUES | st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5), max_size=3),
    max_size=4,
)
KEYS = sorted(Recipe.model_fields)
OPTIM = st.dictionaries(st.sampled_from(sorted(Optim.model_fields)), VALUES, max_size=3)
RECIPE = st.dictionaries(
    st.sampled_from(KEYS),
    VALUES | OPTIM | st.sampled_from(["seq_lora", "am_lora+migu", "demo", "./x.py", "order1"]),
    max_size=5,
)
METHODS = ("seq_lora", "am_lora", "lb_cl", "seq_lora+migu", "lora_replay+ewc")
PARAMETERS = (
    "rank", "alpha", "dropout", "roles", "modules", "penalty", "migu.threshold", "ewc.samples", "keep_gates",
    "optim.betas", "optim.epochs", "evaluation.max_new_tokens", "stream", "limit_train", "output", "x.y",
)  # fmt: skip

Places = list[tuple[str | int, ...]]


class Prepared:
    """A finished run and a model, whose files are changed; a copy of each for every example would take too long."""

    def __init__(self, folder: Path, model: Path) -> None:
        for name in ("animals", "plants"):
            write_task(folder / "data", name)
        self.run = folder / "run"
        run(
            Recipe(
                method="am_lora",
                stream=["animals", "plants"],
                model=str(model),
                data=str(folder / "data"),
                output=str(self.run),
                optim=Optim(batch_size=8),
            ),
            ignore,
        )
        self.learner = self.run / "tasks" / "01-animals"
        self.model = Path(shutil.copytree(model, folder / "model"))
        self.documents = {
            file: json.loads(file.read_text())
            for file in (
                self.run / "results.json", self.learner / "state.json", self.model / "config.json",
                self.model / "generation_config.json", self.model / "tokenizer_config.json",
            )
        }  # fmt: skip

    def places(self, file: Path) -> Places:
        return list(_places(self.documents[file]))

    def changed(self, file: Path, changes: list[tuple[int, Any]]) -> Any:
        """The file's document with other values at some places."""
        document, places = copy.deepcopy(self.documents[file]), self.places(file)
        for number, value in changes:
            *path, last = places[number % len(places)]
            place = document
            with suppress(KeyError, IndexError, TypeError):  # an earlier change took the place away
                for key in path:
                    place = place[key]
                place[last] = value
        return document


def _places(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from _places(value, (*path, key))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("prepared"), tiny_model("t5"))


def file_of_rows(folder: Path, prepared: Prepared, given: tuple[str, bytes]) -> None:
    ending, content = given
    write_task(folder, "mine")
    (folder / "mine" / "train.jsonl").unlink()
    (folder / "mine" / f"train{ending}").write_bytes(content)
    load_tasks(["mine"], folder)


def table(folder: Path, prepared: Prepared, given: str) -> None:
    file_of_rows(folder, prepared, (".csv", ("text,label\n" + given).encode()))


def stream(folder: Path, prepared: Prepared, given: Any) -> None:
    (folder / "own.yaml").write_text(given if isinstance(given, str) else json.dumps(given), errors="surrogatepass")
    read_stream(folder / "own.yaml")


def recipe(folder: Path, prepared: Prepared, given: Any) -> None:
    text = given if isinstance(given, str) else yaml.safe_dump({"method": "seq_lora", **given})
    (folder / "recipe.yaml").write_text(text)
    plan_of(read_recipe(folder / "recipe.yaml", {}, []))


def setting(folder: Path, prepared: Prepared, given: tuple[str, str, Any]) -> None:
    method, key, value = given
    text = value if isinstance(value, str) else json.dumps(value)
    plan_of(read_recipe(None, {"method": method}, [f"{key}={text}"]))


def record(folder: Path, prepared: Prepared, given: list[tuple[int, Any]]) -> None:
    document = prepared.changed(prepared.run / "results.json", given)
    if isinstance(document, dict):
        document.pop("sha256", None)
        with suppress(ValueError, TypeError):
            document["sha256"] = hash_of(document)
    (folder / "results.json").write_text(json.dumps(document))
    read_record(folder / "results.json")


def state(folder: Path, prepared: Prepared, given: list[tuple[int, Any]]) -> None:
    shutil.copytree(prepared.learner, folder / "learner")
    document = prepared.changed(prepared.learner / "state.json", given)
    (folder / "learner" / "state.json").write_text(json.dumps(document))
    (folder / "learner" / "manifest.json").unlink()
    write_manifest(folder / "learner")
    read_learner(folder / "learner")


def model_file(name: str) -> Callable[[Path, Prepared, Any], None]:
    def read(folder: Path, prepared: Prepared, given: list[tuple[int, Any]]) -> None:
        shutil.copytree(prepared.model, folder / "model")
        (folder / "model" / name).write_text(json.dumps(prepared.changed(prepared.model / name, given)))
        load_host(str(folder / "model"))

    return read


CHANGES = st.lists(st.tuples(st.integers(0, 10_000), VALUES), min_size=1, max_size=2)
ENDINGS = st.sampled_from([".jsonl", ".json", ".csv", ".jsonl.gz", ".parquet"])
READERS: dict[str, tuple[Callable[[Path, Prepared, Any], None], st.SearchStrategy[Any]]] = {
    "bytes": (file_of_rows, st.tuples(ENDINGS, st.binary(max_size=80))),
    "csv": (table, st.text(alphabet='ab,"\n\r\0;é\t ', max_size=80)),
    "stream": (stream, STREAM | SIGNS | VALUES),
    "recipe": (recipe, RECIPE | SIGNS),
    "setting": (setting, st.tuples(st.sampled_from(METHODS), st.sampled_from(PARAMETERS), VALUES | SIGNS)),
    "record": (record, CHANGES),
    "state": (state, CHANGES),
    "config": (model_file("config.json"), CHANGES),
    "generation": (model_file("generation_config.json"), CHANGES),
    "tokenizer": (model_file("tokenizer_config.json"), CHANGES),
}


def read_or_refused(name: str, folder: Path, prepared: Prepared, examples: int) -> None:
    reader, strategy = READERS[name]
    numbers = iter(range(10**9))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(given=strategy)
    def check(given: Any) -> None:
        place = folder / str(next(numbers))
        place.mkdir()
        with suppress(NacreError):
            reader(place, prepared, given)
        shutil.rmtree(place)

    check()


@pytest.mark.parametrize("name", READERS)
def test_anything_is_read_or_refused(name: str, tmp_path: Path, prepared: Prepared) -> None:
    read_or_refused(name, tmp_path, prepared, 20)


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_anything_is_read_or_refused_for_long(name: str, tmp_path: Path, prepared: Prepared) -> None:
    read_or_refused(name, tmp_path, prepared, 700)
