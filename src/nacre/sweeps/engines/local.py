"""Runs in processes of this machine, so many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from nacre.sweeps.engines.engine import Resources, carry_out


class Local:
    """A thread waits for each process. A process ends with the thread that started it, and so with the sweep."""

    def __init__(self, jobs: int) -> None:
        """Nothing runs yet.

        Args:
            jobs: How many processes run at a time, at most.
        """
        self._pool = ThreadPoolExecutor(jobs)

    def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
        """See `RunEngine`."""
        return self._pool.submit(carry_out, command, resources, str(Path.cwd()))

    def close(self) -> None:
        """See `RunEngine`. Ctrl-C reaches the processes by itself; they save what they can, and are waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)
