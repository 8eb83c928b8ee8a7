"""Files that appear whole or not at all, whatever happens to the process; hashes and seeds that stay what they are."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.files import build_folder, hash_of, put_back, sha256, to_json, write_atomically
from nacre.seeds import derive

FILES = 12  # of a folder that is written while the process may be killed


def generation(folder: Path) -> set[str]:
    """What stands in the files of a folder that ``fill_with`` wrote; more than one value, or too few files: a half."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == FILES, f"{len(files)} of {FILES} files are there"
    return {path.read_text() for path in files}


def fill_with(text: str) -> Callable[[Path], None]:
    def fill(place: Path) -> None:
        (place / "sub").mkdir()
        for number in range(FILES):
            (place / ("sub" if number % 2 else "") / f"{number}.txt").write_text(text)

    return fill


def leftovers(folder: Path) -> list[str]:
    """Names in a folder that are not what was asked for; they must say that they are leftovers."""
    names = [path.name for path in folder.iterdir() if path.name != "place"]
    assert all(name.startswith(".") and name.endswith(".partial") for name in names), names
    return names


# One file.


@pytest.mark.parametrize(("content", "held"), [("naïve\n", "naïve\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_write_atomically(tmp_path: Path, content: str | bytes, held: bytes) -> None:
    path = tmp_path / "place"
    write_atomically(path, content)
    assert path.read_bytes() == held
    write_atomically(path, "another, longer content")
    assert path.read_text() == "another, longer content"
    assert leftovers(tmp_path) == []


def test_a_file_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "place"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half a character: \ud800")
    assert path.read_text() == "old"
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", "a folder is not replaced by a file")
    assert (tmp_path / "folder" / "inside").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "place"]


# A folder.


def test_build_folder(tmp_path: Path) -> None:
    path = tmp_path / "parents" / "that are" / "made" / "place"
    build_folder(path, fill_with("first"))
    assert generation(path) == {"first"}

    def fill(place: Path) -> None:
        (place / "only.txt").write_text("second")

    build_folder(path, fill)
    assert [file.name for file in path.iterdir()] == ["only.txt"]
    assert (path / "only.txt").read_text() == "second"
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "place"

    def fail(place: Path) -> None:
        fill_with("new")(place)
        raise error

    with pytest.raises(error):
        build_folder(path, fail)
    assert not path.exists()
    build_folder(path, fill_with("old"))
    with pytest.raises(error):
        build_folder(path, fail)
    assert generation(path) == {"old"}
    assert leftovers(tmp_path) == []


def test_an_exception_while_the_old_folder_makes_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt after ``fill`` is done loses neither the old folder nor the new one."""
    path = tmp_path / "place"
    build_folder(path, fill_with("old"))
    unlink = os.unlink
    removed: list[Any] = []

    def interrupted(name: Any, **options: Any) -> None:
        if len(removed) == FILES // 2:
            removed.append(None)
            raise KeyboardInterrupt
        removed.append(name)
        unlink(name, **options)

    monkeypatch.setattr(os, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_folder(path, fill_with("new"))
    assert generation(path) in ({"old"}, {"new"})


def test_files_have_the_rights_of_new_files(tmp_path: Path) -> None:
    """Whatever wrote them: safetensors makes its files readable by their owner only."""

    def fill(place: Path) -> None:
        fill_with("x")(place)
        for file in place.rglob("*.txt"):
            file.chmod(0o600)

    before = os.umask(0o027)
    try:
        build_folder(tmp_path / "place", fill)
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "place").rglob("*.txt")} == {"0o640"}


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr("nacre.files._exchange", lambda one, other: False)
    for text in ("first", "second"):
        build_folder(tmp_path / "place", fill_with(text))
        assert generation(tmp_path / "place") == {text}
    assert leftovers(tmp_path) == []


def test_what_a_killed_process_left_is_put_back_or_cleaned(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    build_folder(tmp_path / "place", fill_with("old"))
    (tmp_path / "place").rename(tmp_path / f".place.{gone.pid}.former.partial")
    (tmp_path / f".place.{gone.pid}.partial").mkdir()
    put_back(tmp_path / "place")
    assert generation(tmp_path / "place") == {"old"}
    other, running = tmp_path / ".other.1.partial", tmp_path / f".place.{os.getppid()}.partial"
    other.mkdir()
    running.mkdir()
    build_folder(tmp_path / "place", fill_with("new"))
    assert sorted(leftovers(tmp_path)) == sorted([other.name, running.name])  # of another name, of a living process
    (tmp_path / f".page.{gone.pid}.partial").write_text("half")
    write_atomically(tmp_path / "page", "whole")
    assert not (tmp_path / f".page.{gone.pid}.partial").exists()


# A process that is killed.

_WRITE_FOR_EVER = """
import sys
from pathlib import Path
from nacre.files import build_folder, write_atomically
place, files = Path(sys.argv[1]), int(sys.argv[2])
def fill(folder):
    (folder / "sub").mkdir()
    for index in range(files):
        (folder / ("sub" if index % 2 else "") / f"{index}.txt").write_text(text)
for number in range(1_000_000):
    text = str(number) * 1000
    write_atomically(place / "file", text)
    build_folder(place / "place", fill)
    print(number, flush=True)
"""

# Kills itself before the n-th call to the file system inside one replacement of a folder, for n = 1, 2, ... until
# one is finished. Each attempt is a fork, so that all of them cost one start of Python.
_KILL_AT_EVERY_CALL = """
import os, signal, sys
from pathlib import Path
from nacre.files import build_folder
place, files = Path(sys.argv[1]), int(sys.argv[2])
def filled(text):
    def fill(folder):
        (folder / "sub").mkdir()
        for index in range(files):
            (folder / ("sub" if index % 2 else "") / f"{index}.txt").write_text(text)
    return fill
def attempt(last):
    calls = 0
    def count(event, arguments):
        nonlocal calls
        if event == "open" or event.startswith("os."):
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    build_folder(place / str(last) / "place", filled("new"))
last, killed = 0, True
while killed:
    last += 1
    build_folder(place / str(last) / "place", filled("old"))
    child = os.fork()
    if not child:
        attempt(last)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
print(last - 1)
"""


def start(code: str, place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(place), str(FILES)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("attempt", range(5))
def test_killed_at_a_random_moment(tmp_path: Path, attempt: int) -> None:
    process = start(_WRITE_FOR_EVER, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(random.Random(attempt).uniform(0.0, 0.15))
    os.kill(process.pid, signal.SIGKILL)
    finished = max([0, *map(int, process.stdout.read().split())])
    process.wait()
    whole = {str(number) * 1000 for number in (finished, finished + 1)}
    assert (tmp_path / "file").read_text() in whole
    (tmp_path / "file").unlink()
    put_back(tmp_path / "place")  # where two folders cannot change their names in one step
    assert generation(tmp_path / "place") <= whole
    leftovers(tmp_path)
    build_folder(tmp_path / "place", fill_with("next"))
    assert generation(tmp_path / "place") == {"next"}


def test_killed_at_every_call_to_the_file_system(tmp_path: Path) -> None:
    process = start(_KILL_AT_EVERY_CALL, tmp_path)
    output, _ = process.communicate(timeout=60)
    calls = int(output)
    assert calls > 2 * FILES  # at least, each file is opened to be written and again to be flushed
    seen = {"old": 0, "new": 0, "neither": 0}
    for number in range(1, calls + 1):
        folder = tmp_path / str(number) / "place"
        (text,) = generation(folder) if folder.exists() else {"neither"}
        seen[text] += 1
        leftovers(folder.parent)
    assert seen["old"] > 2 * FILES
    assert seen["neither"] == 0 or sys.platform != "linux", f"of {calls} moments, {seen} leave no folder at all"


# Hashes and JSON.


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"")
    assert sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def turned_around(value: Any) -> Any:
    """The same value with the keys of every dictionary in the other order."""
    if isinstance(value, dict):
        return {key: turned_around(value[key]) for key in reversed(value)}
    return [turned_around(item) for item in value] if isinstance(value, list) else value


@given(PLAIN.map(lambda value: {"b": value, "a": 1}))
def test_hash_of_does_not_see_the_order_of_keys(value: dict[str, Any]) -> None:
    other = turned_around(value)
    assert list(other) != list(value)
    assert hash_of(other) == hash_of(value)
    assert json.loads(to_json(value)) == value


def test_hash_of_sees_everything_else() -> None:
    values = [
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": True},
        {"a": "1"},
        {"a": [1]},
        {"a": None},
        {},
        [],
        "",
        [1, 2],
        [2, 1],
    ]
    assert len({hash_of(value) for value in values}) == len(values)
    # The hash is public (protocol_hash): it must be the same in every version.
    assert hash_of({"b": [1, None], "a": "é"}) == "ef8565276ce73f18c6fe81799c2fbbec10b9edd02538e029d7a85e1524225c3c"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_readers_disagree_about(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"matrix": [[value]]})
    with pytest.raises(ValueError, match="JSON"):
        hash_of(value)


# Seeds.

NAMES = st.text(st.characters(exclude_characters="/", codec="utf-8"), max_size=8)  # no name of a task has a slash
PLACES = st.tuples(st.integers(0, 2**31), st.lists(NAMES, max_size=4).map(tuple))


def test_seeds_stay_what_they_are() -> None:
    """Literals: a seed must give the same run in every version, on every machine."""
    assert derive(0) == 3456079177858693020
    assert derive(0, "order", "animals", 0) == 1795501758554057580
    assert derive(7, "order", "animals", 3) == 4062670087807250451
    assert derive(0, "start", 1) == 548549378163779396
    assert derive(0, "naïve", "名前") == 7011804762427822304


@given(PLACES, PLACES)
def test_seeds_differ_by_place(one: tuple[int, tuple[str, ...]], other: tuple[int, tuple[str, ...]]) -> None:
    first, second = derive(one[0], *one[1]), derive(other[0], *other[1])
    assert (first == second) == (one == other)
    assert 0 <= first < 2**63


def test_seeds_do_not_crowd() -> None:
    seeds = {derive(seed, "order", "animals", epoch) for seed in range(100) for epoch in range(100)}
    assert len(seeds) == 10_000
    assert len({seed % 1024 for seed in seeds}) == 1024  # low bits vary too; some generators look at those alone
