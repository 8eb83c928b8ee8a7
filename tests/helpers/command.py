"""What a command of nacre's came to, for the tests that call it (the fixture ``nacre`` in conftest.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nacre.files import sha256


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash, every folder with ''."""
    return {str(path.relative_to(folder)): sha256(path) if path.is_file() else "" for path in folder.rglob("*")}


def one_line(text: str) -> str:
    """What was printed, without the line ends that a narrow screen adds."""
    return " ".join(text.split())


def assert_one_line_error(said: Outcome, *parts: object) -> None:
    """Exit code 2, and one line that holds all these parts."""
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("Error: ")
    assert said.err.endswith((".\n", "?\n"))
    assert "Traceback" not in said.err + said.out
    assert said.out == ""
    for part in parts:
        assert str(part) in said.err
