"""Stages hold what is new since the stage before: their size, their chain, and what is wrong with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import CheckpointError
from nacre.events import ignore
from nacre.files import sha256
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.manifest import MANIFEST, read_manifest
from nacre.records.stage import Learned
from nacre.registry import build_method
from nacre.runs.results import learned_of
from nacre.runs.stages import Place, Stages

torch.set_num_threads(1)

RUN = "0" * 64
SETTINGS = {"seq_lora+replay": {"replay": {"fraction": 0.5}}}


def new_learner(method: str) -> Learner:
    return Learner(tiny_host("t5"), build_method(method, SETTINGS.get(method, {})), optim=Optim(batch_size=4))


def places(path: Path, count: int) -> list[Place]:
    names = tuple(f"task{number}" for number in range(1, count + 1))
    saved = Stages(path, RUN, count, ignore)
    folders = [saved.folder(number, name) for number, name in enumerate(names, 1)]
    before = [None, *folders]
    return [Place(folders[n], n + 1, before[n], names[: n + 1]) for n in range(count)]


def learn(path: Path, method: str, count: int, whole_at: tuple[int, ...] = ()) -> list[Path]:
    """The stages' folders; after some tasks the learner is also saved whole, as `whole3`."""
    saved, learner = Stages(path, RUN, count, ignore), new_learner(method)
    for place in places(path, count):
        learner.learn(tiny_task(place.tasks[-1], 4))
        saved.write_learned(place, learner.snapshot(), learned_of(learner, 0.0))
        if place.row in whole_at:
            learner.save(path / f"whole{place.row}")
    return [place.folder for place in places(path, count)]


def size(folder: Path) -> int:
    """Bytes of a learner's files."""
    return sum(file.stat().st_size for file in folder.iterdir() if checkpoint.is_learners(file.name))


AT = (1, 15, 60)
GROWTH = {"inc_lora": 1.1, "am_lora": 2.5, "seq_lora": 1.1, "seq_lora+replay": 1.1}
"""A stage's size after 60 tasks, in multiples of that after 15. AM-LoRA trains every task's selector anew, so that a
row for each task and site is new at every stage."""


@pytest.mark.parametrize("method", GROWTH)
def test_a_stage_is_as_large_after_many_tasks(method: str, tmp_path: Path) -> None:
    folders = learn(tmp_path, method, 60, AT)
    sizes = {number: size(folders[number - 1]) for number in AT}
    print(method, sizes, {number: size(tmp_path / f"whole{number}") for number in AT})
    assert sizes[60] <= GROWTH[method] * sizes[15]
    for number in AT:
        whole = checkpoint.read(tmp_path / f"whole{number}")
        assert checkpoint.read(folders[number - 1]).differences(whole) == []
    loaded, answers = new_learner(method), new_learner(method)
    loaded.restore(checkpoint.read(folders[-1]))
    answers.restore(checkpoint.read(tmp_path / "whole60"))
    assert loaded.answer([tiny_task("task7")]) == answers.answer([tiny_task("task7")])


@pytest.mark.parametrize("method", ["inc_lora", "am_lora", "seq_lora+replay"])
def test_every_file_of_a_chain_is_opened_once(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = learn(tmp_path, method, 20)
    opened: list[Path] = []
    load = checkpoint._load_tensors

    def counted(folder: Path, name: str, *rest: object, **how: object) -> dict[str, torch.Tensor]:
        opened.append(folder / name)
        return load(folder, name, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "_load_tensors", counted)
    checkpoint.read(last)
    tensors = [file for file in opened if file.name == "adapter"]
    assert len(tensors) == len(set(tensors)) > 10


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five stages."""
    path = tmp_path_factory.mktemp("straight")
    learn(path, "inc_lora", 5, (4, 5))
    return path


@pytest.fixture
def run(straight: Path, tmp_path: Path) -> Path:
    shutil.copytree(straight, tmp_path / "run")
    return tmp_path / "run"


def stage(run: Path, number: int) -> Path:
    return run / "tasks" / f"0{number}-task{number}"


def test_a_stage_that_continues_writes_the_same_when_it_is_learned_again(run: Path, straight: Path) -> None:
    """By a process that finds the stage before on disk."""
    for number in (4, 5):
        shutil.rmtree(stage(run, number))
    saved, learner = Stages(run, RUN, 5, ignore), new_learner("inc_lora")
    all_places = places(run, 5)
    saved.learner(all_places[2], learner)
    for place in all_places[3:]:
        learner.learn(tiny_task(place.tasks[-1], 4))
        saved.write_learned(place, learner.snapshot(), learned_of(learner, 0.0))
    for number in (4, 5):
        for file in filter(lambda each: checkpoint.is_learners(each.name), stage(run, number).iterdir()):
            assert sha256(file) == sha256(stage(straight, number) / file.name)


def test_a_stage_is_loaded_inside_its_run_and_saved_alone(run: Path, tmp_path: Path) -> None:
    assert json.loads((stage(run, 4) / "state.json").read_text())["continues"]["folder"] == "03-task3"
    learner = Learner.load(stage(run, 4), tiny_host("t5"), build_method("inc_lora"))
    learner.save(tmp_path / "alone")
    assert checkpoint.read(tmp_path / "alone").differences(checkpoint.read(run / "whole4")) == []
    assert "continues" not in json.loads((tmp_path / "alone" / "state.json").read_text())


def test_the_folder_of_stages_can_be_copied(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "tasks", tmp_path / "elsewhere")
    assert checkpoint.read(tmp_path / "elsewhere" / "05-task5").tasks[-1] == "task5"


def test_a_lone_stage_is_refused_with_advice(run: Path, tmp_path: Path) -> None:
    shutil.copytree(stage(run, 4), tmp_path / "04-task4")
    with pytest.raises(CheckpointError, match=r"only what is new since '03-task3'.*learner\.save\(\)") as caught:
        checkpoint.read(tmp_path / "04-task4")
    assert "\n" not in str(caught.value)


def test_a_missing_link_is_named(run: Path) -> None:
    shutil.rmtree(stage(run, 2))
    with pytest.raises(CheckpointError, match=r"03-task3' holds only what is new since '02-task2'"):
        checkpoint.read(stage(run, 5))


def test_a_link_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = learn(tmp_path / "other", "am_lora", 3)
    shutil.rmtree(stage(run, 3))
    shutil.copytree(other[2], stage(run, 3))
    with pytest.raises(CheckpointError, match="continues another '03-task3' than the one that lies beside it"):
        checkpoint.read(stage(run, 5))


@pytest.mark.parametrize("name", ["adapter.safetensors", "state.safetensors", "state.json", MANIFEST])
@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_damage_in_any_link_is_found_and_named(run: Path, number: int, name: str) -> None:
    file = stage(run, number) / name
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(stage(run, 5))
    assert stage(run, number).name in str(caught.value)
    assert "\n" not in str(caught.value)


FORGERIES: dict[str, Callable[[dict[str, object]], object]] = {
    "itself": lambda continues: continues.update(folder="05-task5"),
    "a path": lambda continues: continues.update(folder="../tasks/04-task4"),
    "the folder above": lambda continues: continues.update(folder=".."),
    "fewer tasks": lambda continues: continues["grown"].update(tasks=3),  # type: ignore[attr-defined]
    "no rows": lambda continues: continues["after"]["adapter"].clear(),  # type: ignore[index]
    "more rows": lambda continues: continues["after"]["adapter"].update(  # type: ignore[index]
        dict.fromkeys(continues["after"]["adapter"], 9)  # type: ignore[index]
    ),
    "nothing": lambda continues: continues.clear(),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_stage_that_agrees_with_its_manifest_alone(run: Path, kind: str) -> None:
    file = stage(run, 5) / "state.json"
    document = json.loads(file.read_text())
    FORGERIES[kind](document["continues"])
    file.write_text(json.dumps(document))
    manifest = json.loads((stage(run, 5) / MANIFEST).read_text())
    manifest["sha256"]["state.json"] = sha256(file)
    (stage(run, 5) / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError) as caught:
        new_learner("inc_lora").restore(checkpoint.read(stage(run, 5)))
    assert "\n" not in str(caught.value)


def test_a_learner_that_begins_anew_continues_nothing(tmp_path: Path) -> None:
    saved = Stages(tmp_path, RUN, 2, ignore)
    first, second = (Place(saved.folder(n, name), n, None, (name,)) for n, name in ((1, "task1"), (2, "task2")))
    for place in (first, Place(second.folder, 2, first.folder, ("task2",))):
        learner = new_learner("inc_lora")
        learner.learn(tiny_task(place.tasks[0], 4))
        saved.write_learned(place, learner.snapshot(), learned_of(learner, 0.0))
        assert "continues" not in json.loads((place.folder / "state.json").read_text())
        assert isinstance(saved.read(place, learner), Learned)
    assert read_manifest(second.folder).previous is not None
