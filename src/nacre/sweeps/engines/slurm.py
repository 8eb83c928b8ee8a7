"""Runs as jobs of SLURM, through submitit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nacre.optional import need
from nacre.sweeps.engines.engine import Resources, carry_out


class Slurm:
    """Jobs wait and run without the sweep, which looks after them from time to time.

    If the sweep ends, they go on; the same command takes up what they have done.
    """

    def __init__(self, jobs: int, folder: Path, parameters: Mapping[str, Any], cluster: str = "slurm") -> None:
        """Nothing is submitted yet.

        Args:
            jobs: How many wait or run at a time, at most.
            folder: Receives submitit's own files.
            parameters: Of submitit's executor, such as `slurm_partition` or `timeout_min`.
            cluster: Of submitit; `local` runs jobs in processes of this machine.

        Raises:
            NacreError: If submitit is not installed.
        """
        submitit = need("submitit", "The engine 'slurm'", "slurm")
        self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self._executor.update_parameters(**parameters)
        self._pool = ThreadPoolExecutor(jobs)

    def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
        """See `RunEngine`."""
        return self._pool.submit(self._carried_out, command, resources, str(Path.cwd()))

    def close(self) -> None:
        """See `RunEngine`."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _carried_out(self, command: Sequence[str], resources: Resources, folder: str) -> int:
        gpus = {"gpus_per_node": resources.gpus} if resources.gpus else {}
        self._executor.update_parameters(name="nacre", cpus_per_task=resources.threads, **gpus)
        code: int = self._executor.submit(carry_out, command, resources, folder).result()
        return code
