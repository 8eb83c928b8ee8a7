"""Runs of `nacre` in processes of their own, and the file that has a line for each finished one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def read_lines(file: Path, key: str = "folder") -> dict[str, dict[str, Any]]:
    """The lines that are there, by what the key holds."""
    if not file.exists():
        return {}
    return {line[key]: line for line in map(json.loads, file.read_text().splitlines())}


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
