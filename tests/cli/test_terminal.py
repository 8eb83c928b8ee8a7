"""What reaches the terminal: one line for what the machine refuses, and no control characters of other people."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from helpers.command import Call, assert_one_line_error, contents
from helpers.tiny import write_task
from nacre.console import PlainConsole
from nacre.errors import FileError, file_error, file_errors
from nacre.files import build_folder, write_atomically
from nacre.printable import one_line, printable

HOSTILE = "a\x1b]0;mine\x07b\x9b31mc\u202ed\u2028e\ud800f\x00g\rh"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ROWS = "".join(json.dumps({"text": f"row {number}", "label": "ab"[number % 2]}) + "\n" for number in range(12))


def task(folder: Path, **card: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(ROWS)
    (folder / "test.jsonl").write_text('{"text": "test", "label": "a"}\n')
    (folder / "task.json").write_text(json.dumps(card))
    return folder


# Control characters.


def test_printable() -> None:
    assert printable("Räder 車\tx\ny é 🙂 a\u200db") == "Räder 車\tx\ny é 🙂 a\u200db"
    assert printable("\x1b[31m\x07\x9b") == "\\u001b[31m\\u0007\\u009b"
    assert not OBEYED.search(printable(HOSTILE))
    assert one_line("a\nb\r\nc\u2028d\te") == "a b c d e"
    assert json.loads(printable(json.dumps(["\x9b\u202e"], ensure_ascii=False))) == ["\x9b\u202e"]


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="bold"))
    shown = io.StringIO()
    console = PlainConsole(file=shown, force_terminal=False, width=200)
    console.print(table)
    console.print(HOSTILE, Text(HOSTILE), ["a", HOSTILE])
    text = shown.getvalue()
    assert text.count("\\u001b]0;mine\\u0007") >= 5
    assert not OBEYED.search(text)
    widths = {len(line) for line in text.splitlines() if line.startswith(("│", "┃"))}
    assert len(widths) == 1  # columns are as wide as what is shown in them


def test_markup_in_a_name_stays_text() -> None:
    shown = io.StringIO()
    console = PlainConsole(file=shown, force_terminal=True, width=200)
    console.print("[link=http://example.org]y[/link] :smile:")
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task("[link=http://example.org]z[/link]")
    assert "[link=http://example.org]y[/link] :smile:" in shown.getvalue()
    assert "[link=http://example.org]z[/link]" in shown.getvalue()
    assert "\x1b]8;" not in shown.getvalue()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "--method", "seq_\x1b[31mlora"), "seq_\\"),
        (("run", "--method", "seq_lora", "--set", "ra\x1bnk=3"), "ra"),
        (("run", "--method", "seq_lora", "--set", "rank=\x1b"), "rank"),
        (("run", "--method", "seq_lora", "--set", "rank\n=3"), "rank"),
        (("run", "--method", "seq_lora", "--stream", "de\x07mo"), "de"),
        (("run", "--method", "seq_lora", "--output", "a\x00b"), "NUL"),
        (("run", "--method", "seq_lora", "--seed", "\x1b[2J"), "--seed"),
        (("run", "--meth\x1bod", "x"), "--meth"),
        (("ru\x1bn",), "ru"),
        (("check", "no\x1bne"), "no"),
        (("check", "--stream", "a\u202e,b"), "a"),
        (("methods", "x\x1b]0;y\x07"), "x"),
        (("streams", "x\x1b]0;y\x07"), "x"),
    ],
)
def test_errors_hold_no_control_characters(nacre: Call, arguments: tuple[str, ...], part: str) -> None:
    said = nacre(*arguments)
    assert_one_line_error(said, part)
    assert not OBEYED.search(said.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--method"),
        ("run", "--nothing"),
        ("run", "--method", "seq_lora", "--seed", "x"),
        ("run", "--method", "seq_lora", "a", "b"),
        ("nothing",),
        ("compare",),
        ("compare", "x", "--samples", "10000000000000000"),
        ("compare", "x", "--seed", "-1"),
        ("check", "--max-source-length", "0"),
        ("report",),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(nacre: Call, arguments: tuple[str, ...]) -> None:
    assert_one_line_error(nacre(*arguments))


def test_the_command_alone_says_what_there_is(nacre: Call) -> None:
    said = nacre()
    assert said.code == 0
    assert "compare" in said.out


@pytest.mark.parametrize("where", ["label", "field", "family", "row"])
def test_check_prints_no_control_characters(nacre: Call, tmp_path: Path, where: str) -> None:
    folder = task(
        tmp_path / "data" / "mine",
        **({"family": HOSTILE.replace("\ud800", "").replace("\x00", "")} if where == "family" else {}),
    )
    bad = HOSTILE.replace("\ud800", "").replace("\x00", "")
    rows = [{"text": f"t {n}", "label": bad if where == "label" else "ab"[n % 2], "x": n} for n in range(20)]
    rows += [{"text": bad, "label": rows[0]["label"]}] * 2 if where == "row" else []
    if where == "field":
        rows = [{bad: 1, **row} for row in rows]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps({"text": "q", "label": rows[0]["label"]}) + "\n")
    said = nacre("check", tmp_path / "data")
    assert said.code == 0
    assert not OBEYED.search(said.out + said.err)
    as_json = nacre("check", tmp_path / "data", "--json")
    assert as_json.out.isascii()
    assert not OBEYED.search(as_json.out)
    json.loads(as_json.out)


def test_there_is_one_console() -> None:
    """Another one would print what this one writes out."""
    folder = Path(__file__).parents[2] / "src"
    makers = {file.name for file in folder.rglob("*.py") if re.search(r"\bConsole\(", file.read_text(encoding="utf-8"))}
    assert makers == set()  # PlainConsole is made, never rich's own


# What the machine refuses.

FAULTS = [
    errno.ENOSPC,
    errno.EIO,
    errno.EACCES,
    errno.EROFS,
    errno.EDQUOT,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.EMFILE,
]


@pytest.mark.parametrize("number", FAULTS)
def test_a_fault_names_the_file_and_what_to_do(number: int) -> None:
    said = str(file_error(OSError(number, os.strerror(number), "/some/file")))
    assert said.startswith(f"/some/file: {os.strerror(number)}; ")
    assert said.endswith(", and try again.")
    assert str(file_error(OSError(number, os.strerror(number)))).startswith("The output: ")
    with pytest.raises(FileError, match="/some/file"), file_errors():
        raise OSError(number, os.strerror(number), "/some/file")


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_fault_while_writing_names_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
) -> None:
    old = tmp_path / "old.txt"
    write_atomically(old, "as it was")
    build_folder(tmp_path / "folder", lambda place: (place / "x").write_text("as it was"))
    before = contents(tmp_path)

    def fail(what: object, *arguments: object) -> None:
        named = (os.fspath(what),) if isinstance(what, Path) else ()  # as the system's own errors
        raise OSError(number, os.strerror(number), *named)

    monkeypatch.setattr(*((os, "fsync") if operation == "fsync" else (Path, "replace")), fail)
    for write in (
        lambda: write_atomically(old, "new"),
        lambda: write_atomically(tmp_path / "new.txt", "new"),
        lambda: build_folder(tmp_path / "other", lambda place: (place / "x").write_text("new")),
    ):
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
            write()
        assert str(tmp_path) in str(caught.value.filename)
    assert contents(tmp_path) == before


def test_a_fault_inside_a_folder_names_it(tmp_path: Path) -> None:
    def fill(place: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as caught:
        build_folder(tmp_path / "folder", fill)
    assert caught.value.filename == str(tmp_path / "folder")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("number", FAULTS)
def test_a_command_ends_in_one_line(nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    folder = task(tmp_path / "data" / "mine")

    def fail(*arguments: object, **options: object) -> Iterator[Path]:
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr("nacre.tasks.reading.sources.read_table", fail)
    assert_one_line_error(nacre("check", tmp_path / "data", "--stream", "mine"), folder, os.strerror(number))


def python_is_out_of_memory() -> None:
    raise MemoryError


def torch_is_out_of_memory() -> None:
    torch.empty(1 << 60)


def the_device_is_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4 GiB.")


SHORTAGES = {
    python_is_out_of_memory: "Out of memory: lower optim.batch_size",
    torch_is_out_of_memory: "Out of memory (4611686018427387904 bytes more were asked for): lower",
    the_device_is_out_of_memory: "Out of the accelerator's memory (2.00 GiB more were asked for): lower",
}


@pytest.mark.parametrize("fail", SHORTAGES, ids=lambda fail: fail.__name__)
def test_a_command_that_is_out_of_memory_ends_in_one_line(
    nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]
) -> None:
    task(tmp_path / "data" / "mine")
    monkeypatch.setattr("nacre.tasks.reading.sources.read_table", lambda *_, **__: fail())
    assert_one_line_error(nacre("check", tmp_path / "data", "--stream", "mine"), SHORTAGES[fail])


def test_another_error_of_the_program_shows_its_traceback(
    nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    task(tmp_path / "data" / "mine")
    monkeypatch.setattr("nacre.tasks.reading.sources.read_table", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        nacre("check", tmp_path / "data", "--stream", "mine")


OUTPUTS = [
    "/proc/nacre",
    "/dev/null",
    "/dev/null/x",
    "~nobodyhere/x",
    "",
    " ",
    "x" * 300,
    "x/" * 3000,
    "a\udcffb",
    "/proc/self/mem",
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_place_that_cannot_be_written(
    nacre: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("run", "--method", "seq_lora", "--stream", "demo", "--limit-train", 4, "--limit-test", 2)
    assert_one_line_error(nacre(*common, "--output", output))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("key", ["model", "data", "output"])
def test_an_empty_place_is_not_the_current_folder(nacre: Call, key: str) -> None:
    stream = ("--stream", "demo") if key != "data" else ("--stream", "a,b")
    assert_one_line_error(nacre("run", "--method", "seq_lora", *stream, f"--{key}", "", "--dry-run"), key)


# Streams and signals, in processes of their own.


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **dict(options.pop("env", {}))}  # type: ignore[call-overload]
    return subprocess.run(
        [sys.executable, "-m", "nacre", *arguments],
        capture_output="stdout" not in options,
        env=environment,
        timeout=100,
        **options,
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_standard_output() -> None:
    with Path("/dev/full").open("w") as full:
        said = command("streams", stdout=full, stderr=subprocess.PIPE)
    assert said.returncode == 2
    assert said.stderr.decode() == "Error: The output: No space left on device; free some space, and try again.\n"


def test_a_closed_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        said = command("streams", stdout=closed, stderr=subprocess.PIPE)
    assert said.returncode == 1
    assert said.stderr == b""


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.long),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.long),
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "posix"],
)
def test_other_encodings(tmp_path: Path, environment: dict[str, str]) -> None:
    task(tmp_path / "data" / "mine", instruction="Räder 車", labels=["a", "b", "é"])
    said = command("check", str(tmp_path / "data"), env=environment)
    assert said.returncode == 0, said.stderr
    as_json = command("check", str(tmp_path / "data"), "--json", env=environment)
    assert "'é'" in str(json.loads(as_json.stdout)["findings"])
    (tmp_path / "data" / "mine").rename(tmp_path / "data" / "täsk")
    said = command("check", str(tmp_path / "data"), env=environment)
    assert said.returncode in (0, 2)  # where file names are not UTF-8, this one cannot be written down
    assert b"Traceback" not in said.stderr
    assert said.stderr.count(b"\n") == (said.returncode == 2)


def test_a_name_that_the_locale_cannot_write(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """A run used to end in a traceback at its first answers."""
    write_task(tmp_path, "mine", rows=8)
    (tmp_path / "mine" / "task.json").write_text('{"name": "täsk"}', encoding="utf-8")
    recipe = f"method: seq_lora\nstream: [täsk]\ndata: {tmp_path / 'mine'}\nmodel: {tiny_model('t5')}\nlimit_test: 1\n"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = command("run", "recipe.yaml", "--output", "run", env=ascii_only, cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.endswith(b"which lacks '\\xe4'; set PYTHONUTF8=1, and try again.\n")
    assert said.stderr.count(b"\n") == 1


def test_docstrings_are_needed() -> None:
    said = command("streams", env={"PYTHONOPTIMIZE": "2"})
    assert said.returncode == 2
    assert said.stderr.startswith(b"Error: PYTHONOPTIMIZE=2 and -OO")
    assert said.stderr.count(b"\n") == 1


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    """The import of the command line is stopped by the signal itself, wherever the machine's load would put it.

    A shell's background jobs ignore the signal, unless they ask for it.
    """
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(9)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    said = command("streams", env={"PYTHONPATH": path})
    assert said.returncode == 130
    assert said.stderr == b"Interrupted.\n"


def test_every_text_file_names_its_encoding() -> None:
    """A locale that is not UTF-8 must not change what is written or read."""
    found = []
    for file in (Path(__file__).parents[2] / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            mode = next((a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), "")
            of_a_path = isinstance(node.func, ast.Attribute) and name in ("read_text", "write_text")
            if of_a_path or (name == "open" and mode in ("r", "w", "a", "x", "r+")):
                found.append(f"{file.name}:{node.lineno}")
    assert found == []
