"""A run in several processes is refused, in one sentence and before anything is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_several_processes_are_refused(variable: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "nacre", "run", "--method", "seq_lora", "--output", str(output)],
        env={**os.environ, variable: "2", "RANK": "1", "LOCAL_RANK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: A run works in one process, and 2 were started")
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
