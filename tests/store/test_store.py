"""A store: versions that never change, one of them current; what it learns is what a learner would learn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.stores import NAMES, chain, holds, new_store, settings_of, snapshot_of, taught, write_tasks
from nacre.errors import CheckpointError, DataError, ModelError, NacreError, RecipeError
from nacre.events import ignore
from nacre.files import sha256
from nacre.learning.learner import Learner
from nacre.models.loading import load_host
from nacre.store.learners import learner_of
from nacre.store.rows import test_rows_of as rows_of
from nacre.store.settings import StoreSettings
from nacre.store.source import Source
from nacre.store.store import Store
from nacre.store.teaching import create, evaluate, forget, learn
from nacre.tasks.content import task_content
from nacre.tasks.reading.sources import load_tasks

torch.set_num_threads(1)

ROUTED = "inc_lora+gaussian_routing"


@pytest.fixture(scope="module")
def settings(tiny_model: Callable[[str], Path]) -> StoreSettings:
    return settings_of(tiny_model("t5"))


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
@pytest.mark.parametrize("method", ["inc_lora", "am_lora", ROUTED, "seq_ft", "lora_replay"])
def test_a_store_learns_what_a_learner_learns(
    data: Path, tiny_model: Callable[[str], Path], tmp_path: Path, method: str, architecture: str
) -> None:
    """Each version is loaded from its folder and taught one task more: its bits are those of a learner in memory."""
    settings = settings_of(tiny_model(architecture), method)
    store = new_store(tmp_path / "store", settings)
    outcomes = taught(store, data, *NAMES)
    host, method = load_host(settings.model), settings.build()
    learner = Learner(host, method, optim=settings.optim, decoding=settings.evaluation, on_event=ignore)
    tasks = load_tasks(NAMES, data)
    for number, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True), start=1):
        learner.learn(task)
        assert snapshot_of(store, outcome.name).differences(learner.snapshot()) == []
        scores = learner.evaluate(tasks[:number])
        assert [entry.score.value for entry in outcome.version.tasks if entry.score] == [one.value for one in scores]
        assert outcome.promoted
    assert chain(store)[1:] == [outcome.name for outcome in outcomes]


def test_versions_never_change(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    seen: dict[str, str] = {}
    for name in NAMES:
        taught(store, data, name)
        now = {str(file): sha256(file) for file in store.versions.rglob("*") if file.is_file()}
        assert seen.items() <= now.items()
        seen = now
    first = chain(store)[1]
    store.promote(first, "test")
    assert {str(file): sha256(file) for file in store.versions.rglob("*") if file.is_file()} == seen


def test_test_rows_are_kept_whole(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    taught(store, data, *NAMES)
    version = store.read(store.current)
    for task, entry in zip(load_tasks(NAMES, data), version.tasks, strict=True):
        kept = rows_of(store, entry)
        assert kept is not None
        assert kept.examples("test") == task.examples("test")
        there, here = task_content(kept), task_content(task)
        assert (there["hash"]["test"], there["labels"], there["template"]) == (
            here["hash"]["test"], here["labels"], here["template"],
        )  # fmt: skip


def test_damaged_rows_stop_measuring_alone(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    """The store says so and goes on answering."""
    store = new_store(tmp_path / "store", settings)
    outcome = taught(store, data, *NAMES[:2])[-1]
    file = store.path / "rows" / str(outcome.version.tasks[0].file)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert learner_of(store, outcome.name, ignore).state.tasks == list(NAMES[:2])
    with pytest.raises(CheckpointError, match=file.name):
        evaluate(store, outcome.name, ignore)
    with pytest.raises(CheckpointError, match=file.name):
        taught(store, data, NAMES[2])
    assert store.current == outcome.name


def test_rows_that_are_read_again(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    own = write_tasks(tmp_path / "own")
    store = new_store(tmp_path / "store", settings.model_copy(update={"test_rows": "reference"}))
    first, second = taught(store, own, *NAMES[:2])
    assert not (store.path / "rows").exists()
    assert [entry.score is not None for entry in second.version.tasks] == [True, True]
    lines = (own / NAMES[0] / "test.jsonl").read_text().splitlines()
    (own / NAMES[0] / "test.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match=f"'{NAMES[0]}' are not there any more.*test rows"):
        taught(store, own, NAMES[2])
    assert store.current == second.name
    assert first.name != second.name


def test_rows_that_are_not_kept(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings.model_copy(update={"test_rows": "hash"}))
    _, second = taught(store, data, *NAMES[:2])
    assert [entry.score is not None for entry in second.version.tasks] == [False, True]
    with pytest.raises(DataError, match="has no test rows to be scored on"):
        evaluate(store, second.name, ignore)
    judged = taught(store, data, NAMES[2], must_keep="*:-100pt")[0]
    assert judged.verdict is not None
    assert {finding.name: finding.kept for finding in judged.verdict.judgments} == {
        NAMES[0]: "not measured", NAMES[1]: "not measured",
    }  # fmt: skip
    assert not judged.promoted


def test_scores_are_the_same_when_they_are_measured_again(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    for outcome in taught(store, data, *NAMES):
        version, scores = evaluate(store, outcome.name, ignore)
        assert {entry.name: entry.score.value for entry in version.tasks if entry.score} == {
            entry.name: scores.value(entry.name) for entry in version.tasks
        }


def test_an_earlier_version_answers_again(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    first, second = taught(store, data, *NAMES[:2])
    store.promote(first.name, "rollback")
    third = taught(store, data, NAMES[2])[0]
    assert third.version.names == [NAMES[0], NAMES[2]]
    assert third.version.parent == first.name
    assert second.name in store.names()
    assert learner_of(store, second.name, ignore).state.tasks == list(NAMES[:2])


def test_the_same_work_is_not_done_twice(
    data: Path, settings: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path / "store", settings)
    first, second = taught(store, data, *NAMES[:2])
    store.promote(first.name, "rollback")
    monkeypatch.setattr(Learner, "learn", None)
    again = taught(store, data, NAMES[1], must_keep="*:-100pt")[0]
    assert again.already
    assert again.name == second.name
    assert again.promoted
    assert store.current == second.name


def test_a_task_is_taken_out(data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """What is left is what a learner has that forgets in memory; its rows go, and other versions keep theirs."""
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5"), ROUTED))
    outcomes = taught(store, data, *NAMES)
    learner = learner_of(store, outcomes[-1].name, ignore)
    learner.forget(NAMES[1])
    outcome = forget(store, NAMES[1], ignore)
    assert snapshot_of(store, outcome.name).differences(learner.snapshot()) == []
    assert outcome.version.names == [NAMES[0], NAMES[2]]
    assert len({entry.file for entry in outcome.version.tasks}) == 2
    assert {file.name for file in (store.path / "rows").iterdir()} == {each.file for each in outcomes[-1].version.tasks}
    assert learner_of(store, outcomes[-1].name, ignore).state.tasks == list(NAMES)
    for name in (NAMES[0], NAMES[2]):
        outcome = forget(store, name, ignore)
    assert outcome.version.tasks == []
    again = taught(store, data, NAMES[0])[0]
    assert again.version.names == [NAMES[0]]


def test_names_that_a_file_system_takes_for_one(data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Files are named by what they hold, whatever the tasks are called and whichever are taken out."""
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5"), ROUTED))
    for name in ("x", "a b", "a-b", "a: b"):
        shutil.copytree(data / NAMES[0], tmp_path / "named" / name)
    taught(store, tmp_path / "named", "x", "a b", "a-b")
    forget(store, "x", ignore)
    version = taught(store, tmp_path / "named", "a: b")[0].version
    assert version.names == ["a b", "a-b", "a: b"]
    assert len({entry.file for entry in version.tasks}) == 3
    kept = [rows_of(store, entry) for entry in version.tasks]
    assert [task.name for task in kept if task] == version.names


def test_summed_tasks_cannot_be_taken_out(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    outcomes = taught(store, data, *NAMES[:2])
    with pytest.raises(ModelError, match="none can be taken out"):
        forget(store, NAMES[0], ignore)
    with pytest.raises(DataError, match="'nothing' has not been learned"):
        forget(store, "nothing", ignore)
    assert store.current == outcomes[-1].name


def test_a_task_is_learned_once(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    taught(store, data, NAMES[0])
    with pytest.raises(RecipeError, match="'animals' is learned already, in version"):
        taught(store, data, NAMES[0])


@pytest.mark.parametrize("method", ["joint", "independent"])
def test_methods_that_do_not_go_on(tiny_model: Callable[[str], Path], method: str) -> None:
    with pytest.raises(RecipeError, match="does not go on from one task to the next"):
        settings_of(tiny_model("t5"), method)


def test_a_place_that_is_taken(settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    before = store.current
    with pytest.raises(RecipeError, match="is a store already"):
        create(tmp_path / "store", settings, ignore)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(RecipeError, match="holds other things"):
        create(tmp_path / "other", settings, ignore)
    with pytest.raises(RecipeError, match="is not a store"):
        Store.open(tmp_path / "other")
    assert store.current == before


def test_a_model_that_was_changed(data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5")))
    taught(store, data, NAMES[0])
    other = settings_of(tiny_model("t5", "zebra"))
    moved = Store(store.path, store.settings.model_copy(update={"model": other.model}), store.id)
    with pytest.raises(CheckpointError, match="another pretrained model"):
        learner_of(moved, store.current, ignore)


def test_versions_have_short_names(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    name = taught(store, data, NAMES[0])[0].name
    assert store.resolve(name[:6]) == name == store.resolve("current")
    for written in ("", name[:2], "zzzz", "../versions", "*"):
        with pytest.raises(RecipeError, match="'nacre versions"):
            store.resolve(written)


def test_a_version_of_another_store(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    other = new_store(tmp_path / "other", settings.model_copy(update={"seed": 7}))
    shutil.copytree(other.folder(other.current), store.folder(other.current))
    with pytest.raises(CheckpointError, match="is a version of another store"):
        store.read(other.current)


def test_the_journal_says_what_happened(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    first = store.current
    outcome = taught(store, data, NAMES[0], must_keep="*:-1pt")[0]
    said = [(line["event"], line["version"]) for line in store.history()]
    assert said == [
        ("version", first), ("current", first), ("version", outcome.name), ("verdict", outcome.name),
        ("current", outcome.name),
    ]  # fmt: skip
    with (store.path / "journal.jsonl").open("a") as file:
        file.write('{"event": "cut')
    assert len(store.history()) == len(said)
    taught(store, data, NAMES[1])
    assert len(store.history()) == len(said) + 2


def test_two_stores_of_the_same_settings_hold_the_same(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    stores = [new_store(tmp_path / name, settings) for name in ("one", "two")]
    for store in stores:
        taught(store, data, *NAMES)
    assert holds(stores[0]) == holds(stores[1])


def test_a_second_process_is_refused(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    with store.locked(), pytest.raises(RecipeError, match="Another process is writing"):
        taught(store, data, NAMES[0])
    taught(store, data, NAMES[0])


def test_settings_that_were_changed_by_hand(settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    file = store.path / "store.json"
    document = json.loads(file.read_text())
    document["settings"]["seed"] = 9
    file.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="is damaged: its hash is that of another content"):
        Store.open(store.path)


def test_nothing_is_made_where_the_model_does_not_fit(tmp_path: Path) -> None:
    settings = StoreSettings(method="inc_lora", model=str(tmp_path / "none")).written_out()
    with pytest.raises(NacreError):
        create(tmp_path / "store", settings, ignore)
    assert not (tmp_path / "store").exists()


def test_a_task_that_cannot_be_read(data: Path, settings: StoreSettings, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    before = store.current
    with pytest.raises(DataError):
        learn(store, Source("nothing", str(data)), ignore)
    assert store.current == before
    assert store.names() == [before]
