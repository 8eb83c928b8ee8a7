"""Runs of `nacre` in processes of their own, and the file that has a line for each finished one."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def read_lines(file: Path, key: str = "folder") -> dict[str, dict[str, Any]]:
    """The lines that are there, by what the key holds."""
    if not file.exists():
        return {}
    return {line[key]: line for line in map(json.loads, file.read_text().splitlines())}


class HasFolder(Protocol):
    """A run that a line will be about."""

    @property
    def folder(self) -> str: ...


R = TypeVar("R", bound=HasFolder)


def first_left(runs: Iterable[R], left_out: Collection[str], only: Collection[str], *names: str) -> R | None:
    """The first run that is still to be carried out; None if there is none.

    Args:
        runs: In order of importance.
        left_out: The folders of those that are done, or failed.
        only: What is wanted; empty: everything.
        names: The run's attributes that `only` may name.
    """
    wanted = (run for run in runs if not only or any(getattr(run, name) in only for name in names))
    return next((run for run in wanted if run.folder not in left_out), None)


def add_line(file: Path, line: Mapping[str, Any]) -> None:
    """Add a finished run's line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def carry_out(command: Sequence[str], output: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that begins with `nacre`, with one thread; what it prints is the run's record.

    The environment variable NACRE may name another program, such as one with a time limit.
    """
    program = shlex.split(os.environ.get("NACRE", f"{sys.executable} -m nacre"))
    words = [*program, *command[1:], "--output", str(output), "--json"]
    return subprocess.run(words, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)


def failure(ended: subprocess.CompletedProcess[str], name: str) -> str:
    """What to print of a run that failed."""
    return f"FAILED {name}: {ended.stderr.strip().splitlines()[-1:]}"


def commands_of(description: str | None) -> tuple[argparse.ArgumentParser, Any, argparse.ArgumentParser]:
    """The commands that every experiment has: `run`, with its data, model and folder, and `table`.

    Returns:
        The parser, what further commands are added to, and the parser of `run`. The command's name is `command`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--data", required=True)
    run.add_argument("--model", required=True)
    run.add_argument("--work", required=True, type=Path, help="where the runs go")
    commands.add_parser("table")
    return parser, commands, run
