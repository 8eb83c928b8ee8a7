"""A store survives what happens to it: killed processes, failing disks, changed bytes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from helpers.faults import ERRORS, FailingDisk
from helpers.stores import NAMES, chain, holds, new_store, settings_of, snapshot_of, taught
from nacre.errors import NacreError
from nacre.events import ignore
from nacre.store.learners import learner_of
from nacre.store.listing import listed, status_of
from nacre.store.settings import StoreSettings
from nacre.store.store import Store
from nacre.store.teaching import create, forget

torch.set_num_threads(1)

GATE = "*:-100pt"


@pytest.fixture(scope="module")
def settings(tiny_model: Callable[[str], Path]) -> StoreSettings:
    return settings_of(tiny_model("t5"), must_keep=GATE)


@pytest.fixture(scope="module")
def begun(data: Path, settings: StoreSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has learned one task."""
    store = new_store(tmp_path_factory.mktemp("begun") / "store", settings)
    taught(store, data, NAMES[0])
    return store.path


@pytest.fixture(scope="module")
def straight(begun: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same store after the other two, which nothing disturbed."""
    path = tmp_path_factory.mktemp("straight") / "store"
    shutil.copytree(begun, path)
    taught(Store.open(path), data, *NAMES[1:])
    return path


def teach_the_rest(path: Path, data: Path) -> None:
    """What a person does who is told that something went wrong: the same commands again."""
    store = Store.open(path)
    for name in NAMES[1:]:
        if name not in store.read(store.current).names:
            taught(store, data, name, save_every=1)


def assert_whole(path: Path) -> None:
    """It opens at a version that is whole, and no version that it had is lost or half there."""
    store = Store.open(path)
    for name in store.names():
        store.read(name)
    snapshot_of(store, store.current)
    status_of(store)


def assert_same(path: Path, other: Path) -> None:
    here, there = Store.open(path), Store.open(other)
    assert holds(here) == holds(there)
    pairs = zip(chain(here), chain(there), strict=True)
    assert [snapshot_of(here, one).differences(snapshot_of(there, two)) for one, two in pairs] == [[]] * len(
        chain(here)
    )
    assert not list(path.rglob("*.partial"))
    assert not list(path.glob("versions/unfinished-*"))


# ---- killed processes


def killed_after(seconds: float, path: Path, data: Path) -> bool:
    """Teach in a process of its own that is killed with SIGKILL after a while. Returns whether it was."""
    process = multiprocessing.get_context("fork").Process(target=teach_the_rest, args=(path, data))
    process.start()
    process.join(seconds)
    if (alive := process.is_alive()) and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def kill(begun: Path, straight: Path, data: Path, tmp_path: Path, moments: Iterator[float]) -> int:
    """Kill at each of these moments, in one store after the other; each goes on until nothing is left to do."""
    kills, number = 0, 0
    path = tmp_path / "store0"
    shutil.copytree(begun, path)
    for moment in moments:
        if killed_after(moment, path, data):
            kills += 1
            assert_whole(path)
            continue
        assert_same(path, straight)
        number += 1
        path = tmp_path / f"store{number}"
        shutil.copytree(begun, path)
    teach_the_rest(path, data)
    assert_same(path, straight)
    return kills


def moments(seed: int, count: int, longest: float) -> Iterator[float]:
    draws = random.Random(seed)
    for _ in range(count):
        yield draws.uniform(0, longest)


@pytest.fixture(scope="module")
def usual(begun: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How many seconds the other two tasks take in a process of their own."""
    path = tmp_path_factory.mktemp("usual") / "store"
    shutil.copytree(begun, path)
    started = time.monotonic()
    assert not killed_after(600, path, data)
    return time.monotonic() - started


def test_killed(begun: Path, straight: Path, data: Path, tmp_path: Path, usual: float) -> None:
    assert kill(begun, straight, data, tmp_path, moments(0, 12, 0.8 * usual)) >= 6


@pytest.mark.long
def test_killed_two_hundred_times(begun: Path, straight: Path, data: Path, tmp_path: Path, usual: float) -> None:
    kills, seed = 0, 1
    while kills < 200:
        kills += kill(begun, straight, data, tmp_path / str(seed), moments(seed, 20, 0.8 * usual))
        seed += 1


# ---- several at once


def hold(path: Path, held: Event) -> None:
    with Store.open(path).locked():
        held.set()
        time.sleep(600)


def test_two_that_write_at_once(begun: Path, straight: Path, data: Path, tmp_path: Path) -> None:
    """The second one ends at once with a clear message; when the first one is killed, nothing holds the store."""
    path = tmp_path / "store"
    shutil.copytree(begun, path)
    forked = multiprocessing.get_context("fork")
    held = forked.Event()
    process = forked.Process(target=hold, args=(path, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(NacreError, match="Another process is writing to the store"):
        teach_the_rest(path, data)
    assert_whole(path)
    process.kill()
    process.join()
    teach_the_rest(path, data)
    assert_same(path, straight)


def test_fifty_readers_see_whole_versions_only(begun: Path, straight: Path, data: Path, tmp_path: Path) -> None:
    """Each reads again and again while another process writes; what it sees is a version that stays as it is."""
    path = tmp_path / "store"
    shutil.copytree(begun, path)
    writer = multiprocessing.get_context("fork").Process(target=teach_the_rest, args=(path, data))
    writer.start()

    def read(_: int) -> list[tuple[str, tuple[str, ...]]]:
        seen = []
        while True:
            last = not writer.is_alive()
            store = Store.open(path)
            name = store.current
            snapshot = snapshot_of(store, name)
            assert tuple(store.read(name).names) == snapshot.tasks
            seen.append((name, snapshot.tasks))
            if last:
                return seen

    with ThreadPoolExecutor(50) as readers:
        seen = list(readers.map(read, range(50)))
    writer.join()
    assert writer.exitcode == 0
    assert {each[-1] for each in seen} == {(Store.open(path).current, NAMES)}
    assert {tasks for each in seen for _, tasks in each} <= {NAMES[:1], NAMES[:2], NAMES}
    assert_same(path, straight)


# ---- failing disks


@pytest.fixture(scope="module")
def operations(begun: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many operations on files the other two tasks take."""
    path = tmp_path_factory.mktemp("count") / "store"
    shutil.copytree(begun, path)
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch, path)
        teach_the_rest(path, data)
    return disk.count


def fail(begun: Path, straight: Path, data: Path, path: Path, at: int, number: int, *, ever: bool) -> bool:
    """One operation fails, or all from it on; then the same commands again. Returns whether it ended in an error."""
    shutil.copytree(begun, path)
    error: Exception | None = None
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch, path, at, number, ever=ever)
        try:
            teach_the_rest(path, data)
        except (OSError, NacreError) as stopped:
            error = stopped
    assert disk.failed
    if error is not None:
        assert "\n" not in str(error)
    assert_whole(path)
    teach_the_rest(path, data)
    assert_same(path, straight)
    shutil.rmtree(path)
    return error is not None


@pytest.mark.parametrize("ever", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("name", ERRORS)
def test_a_disk_that_fails_here_and_there(
    begun: Path, straight: Path, data: Path, tmp_path: Path, operations: int, name: str, ever: bool
) -> None:
    assert operations > 100
    first = 1 + 7 * list(ERRORS).index(name) + 3 * ever
    ended = [
        fail(begun, straight, data, tmp_path / "store", at, ERRORS[name], ever=ever)
        for at in range(first, operations + 1, 41)
    ]
    assert any(ended)


@pytest.mark.long
@pytest.mark.parametrize("ever", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("name", ERRORS)
def test_a_disk_that_fails_at_every_operation(
    begun: Path, straight: Path, data: Path, tmp_path: Path, operations: int, name: str, ever: bool
) -> None:
    for at in range(1, operations + 1):
        fail(begun, straight, data, tmp_path / "store", at, ERRORS[name], ever=ever)


@pytest.mark.parametrize("name", ERRORS)
def test_a_disk_that_fails_while_a_store_is_made(settings: StoreSettings, tmp_path: Path, name: str) -> None:
    """It appears whole or not at all, and the same command makes it."""
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch, tmp_path)
        made = holds(new_store(tmp_path / "count", settings))
    path = tmp_path / "store"
    for at in range(1 + list(ERRORS).index(name), disk.count, 3):
        with pytest.MonkeyPatch.context() as patch:
            FailingDisk(patch, tmp_path, at, ERRORS[name])
            with contextlib.suppress(OSError, NacreError):
                create(path, settings, ignore)
        if not path.exists():
            create(path, settings, ignore)
        assert holds(Store.open(path)) == made
        assert sorted(each.name for each in tmp_path.iterdir()) == ["count", "store"]
        shutil.rmtree(path)


# ---- changed bytes


def places(path: Path, count: int, seed: int) -> list[tuple[Path, int]]:
    """Bytes of a store's files, drawn so that every file has some."""
    draws = random.Random(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in (".lock", "journal.jsonl"))
    files = [file for file in files if file.suffix not in (".md", ".html")]  # pages, which nobody reads back
    return [(file, draws.randrange(file.stat().st_size)) for _ in range(-(-count // len(files))) for file in files][
        :count
    ]


def notice(path: Path) -> list[str]:
    """What is said of a store by everything that reads it."""
    said: list[str] = []
    for read in (_read_versions, _read_verdicts, _read_status, _read_learner):
        try:
            read(path)
        except NacreError as error:
            said.append(str(error))
    return said


def _read_versions(path: Path) -> None:
    store = Store.open(path)
    for name in store.names():
        store.read(name)


def _read_verdicts(path: Path) -> None:
    store = Store.open(path)
    for name in store.names():
        store.verdict(name)
    listed(store)


def _read_status(path: Path) -> None:
    status_of(Store.open(path))


def _read_learner(path: Path) -> None:
    store = Store.open(path)
    snapshot_of(store, store.current)


def check_flips(straight: Path, tmp_path: Path, count: int, seed: int) -> None:
    path = tmp_path / "store"
    shutil.copytree(straight, path)
    assert notice(path) == []
    for file, place in places(path, count, seed):
        before = file.read_bytes()
        bits = random.Random(place).randrange(1, 256)
        file.write_bytes(before[:place] + bytes([before[place] ^ bits]) + before[place + 1 :])
        said = notice(path)
        assert said, f"byte {place} of {file} was changed, and nobody noticed"
        assert any(file.name in line or file.parent.name in line or file.parent.parent.name in line for line in said)
        assert all("\n" not in line for line in said)
        file.write_bytes(before)
    assert notice(path) == []


def test_changed_bytes_are_noticed(straight: Path, tmp_path: Path) -> None:
    check_flips(straight, tmp_path, 120, seed=0)


@pytest.mark.long
def test_five_hundred_changed_bytes_are_noticed(straight: Path, tmp_path: Path) -> None:
    check_flips(straight, tmp_path, 500, seed=1)


@pytest.mark.parametrize("how", ["empty", "half", "gone", "a folder", "swapped"])
def test_damaged_files_are_named(straight: Path, tmp_path: Path, how: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(straight, path)
    files = dict.fromkeys(file for file, _ in places(path, 10_000, 0))
    for file in files:
        before = file.read_bytes()
        other = next((each for each in files if each.suffix == file.suffix and each.read_bytes() != before), None)
        if how == "gone" and file.parent.name == "verdicts":
            continue  # a verdict that is not there is none
        if how == "swapped" and (other is None or file.name == "store.json"):
            continue
        file.unlink()
        if how == "empty":
            file.write_bytes(b"")
        elif how == "half":
            file.write_bytes(before[: len(before) // 2])
        elif how == "a folder":
            file.mkdir()
        elif how == "swapped" and other is not None:
            file.write_bytes(other.read_bytes())
        try:
            said = notice(path)
        except OSError as error:
            said = [str(error)]
        assert said, f"{file} was {how}, and nobody noticed"
        if file.is_dir():
            file.rmdir()
        file.write_bytes(before)
    assert notice(path) == []


def test_a_damaged_version_does_not_stop_the_others(straight: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(straight, path)
    store = Store.open(path)
    first, second, third, last = chain(store)
    (store.folder(last) / "state.json").write_text("{}")
    with pytest.raises(NacreError, match=r"state\.json is damaged"):
        learner_of(store, last, ignore)
    store.promote(third, "rollback")
    assert learner_of(store, third, ignore).state.tasks == list(NAMES[:2])
    assert status_of(store).name == third
    assert {each.name for each in listed(store)} == {first, second, third, last}


def test_a_current_name_that_is_lost_can_be_written_anew(straight: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(straight, path)
    store = Store.open(path)
    name = store.current
    for text in ("", "x", name[:-1], f"../versions/{name}", "f" * 16):
        (path / "current").write_text(text)
        with pytest.raises(NacreError, match="'nacre rollback"):
            _ = store.current
        assert store.current_or_none() is None
        store.promote(name, "rollback")
        assert store.current == name


def test_a_failed_forget_changes_nothing(tiny_model: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5"), "inc_lora+gaussian_routing"))
    taught(store, data, *NAMES[:2])
    before = store.current
    with pytest.MonkeyPatch.context() as patch:
        FailingDisk(patch, store.path, 12, ERRORS["ENOSPC"], ever=True)
        with pytest.raises((OSError, NacreError)):
            forget(store, NAMES[0], ignore)
    assert store.current == before
    assert_whole(store.path)
    assert forget(store, NAMES[0], ignore).version.names == [NAMES[1]]
