"""What an engine is: something that carries out commands, so many at a time, and says how each one ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nacre.launcher import without_launcher


@dataclass(frozen=True)
class Resources:
    """What a command is given.

    Attributes:
        threads: On the processor.
        gpus: Graphics processors of its own.
        log: The file that receives what it prints.
    """

    threads: int
    gpus: int
    log: Path


class RunEngine(Protocol):
    """Carries out commands."""

    def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
        """Carry out a command as soon as there is room for it, in this folder and environment.

        Returns:
            Its exit code, when it has ended; the exception that kept the engine from starting it.
        """
        ...

    def close(self) -> None:
        """Begin no more commands, and end those that run."""
        ...


def carry_out(command: Sequence[str], resources: Resources, folder: str) -> int:
    """Carry out a command, wherever an engine has put this process.

    Args:
        command: Program and arguments.
        resources: See `Resources`.
        folder: Where it runs.

    Returns:
        Its exit code.
    """
    resources.log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "nacre.sweeps.engines.leashed", str(os.getpid()), *command]
    with resources.log.open("w", encoding="utf-8") as log:
        environment = {**without_launcher(os.environ), "OMP_NUM_THREADS": str(resources.threads)}
        done = subprocess.run(words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return done.returncode
