"""The engines by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nacre.errors import RecipeError
from nacre.sweeps.engines.engine import RunEngine
from nacre.sweeps.engines.local import Local
from nacre.sweeps.engines.on_ray import OnRay
from nacre.sweeps.engines.slurm import Slurm

ENGINES = ("local", "slurm", "ray")


def engine_of(name: str, *, jobs: int, threads: int, folder: Path, slurm: Mapping[str, Any]) -> RunEngine:
    """An engine that is ready.

    Args:
        name: Its name.
        jobs: How many runs it carries out at a time, as far as that is for it to say.
        threads: Of each run.
        folder: Where it may keep files of its own.
        slurm: Parameters of SLURM's.

    Raises:
        RecipeError: If there is no such engine.
        NacreError: If what it needs is not installed.
    """
    match name:
        case "local":
            return Local(jobs)
        case "ray":
            return OnRay(jobs, threads)
        case "slurm":
            return Slurm(jobs, folder, slurm)
    raise RecipeError(f"--engine {name}: {', '.join(ENGINES)} are possible.")
