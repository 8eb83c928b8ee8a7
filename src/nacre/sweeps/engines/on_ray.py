"""Runs as tasks of a Ray cluster: the one that RAY_ADDRESS names, or one that is made on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from nacre.optional import need
from nacre.sweeps.engines.engine import Resources, carry_out


class OnRay:
    """All machines of the cluster must see the sweep's folder, the data and the models under the same names."""

    def __init__(self, jobs: int, threads: int) -> None:
        """Connect, or begin a cluster of this machine.

        Args:
            jobs: How many runs a cluster of this machine carries out at a time; another one has room of its own.
            threads: Of each.

        Raises:
            NacreError: If ray is not installed.
        """
        self._ray: Any = need("ray", "The engine 'ray'", "ray")
        address = os.environ.get("RAY_ADDRESS")
        own = {} if address else {"num_cpus": jobs * threads, "include_dashboard": False}
        self._ray.init(address=address, log_to_driver=False, logging_level="error", **own)

    def submit(self, command: Sequence[str], resources: Resources) -> Future[int]:
        """See `RunEngine`."""
        task = self._ray.remote(carry_out).options(num_cpus=resources.threads, num_gpus=resources.gpus, max_retries=0)
        future: Future[int] = task.remote(command, resources, str(Path.cwd())).future()
        return future

    def close(self) -> None:
        """See `RunEngine`."""
        self._ray.shutdown()
