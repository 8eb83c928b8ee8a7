"""How many processes take part in a run: one."""

from __future__ import annotations

import os

import torch

from nacre.errors import RecipeError

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""The variables by which launchers (torchrun, accelerate, MPI) say how many processes there are."""


def check_single_process() -> None:
    """Refuse to run in several processes.

    Each of them would write the same folder and answer every test row. `nacre.learning.learner.Learner` does train on
    several processes.

    Raises:
        RecipeError: If a launcher started more than one process.
    """
    if (count := number_of_processes()) > 1:
        raise RecipeError(
            f"A run works in one process, and {count} were started: call 'nacre run' without torchrun, accelerate "
            "launch or mpirun."
        )


def number_of_processes() -> int:
    """How many processes a launcher started, or have formed a group; 1 without either."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    sizes = (os.environ.get(name, "") for name in WORLD_SIZES)
    return max((int(size) for size in sizes if size.isdigit()), default=1)
