"""What a launcher (`torchrun`, `accelerate launch`) tells the processes that it starts, and how it ends them."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from nacre.errors import FailedElsewhere, NacreError, RecipeError

OF_LAUNCHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|ACCELERATE_.*|FSDP_.*"
)
"""The variables by which they tell a process its place."""

OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a mesh of several kinds of parallelism",
}
"""By the variable that accelerate sets for it."""

OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""The variables by which MPI says how many processes there are."""


def launched() -> tuple[int, int]:
    """This process's number, from 0, and how many a launcher started; 0 and 1 without one.

    Raises:
        RecipeError: If several were started by something that gives them no number.
    """
    count = _number("WORLD_SIZE") or 1
    if count > 1 and _number("RANK") is not None:
        return _number("RANK") or 0, count
    if (most := max(count, *(_number(name) or 1 for name in OF_MPI))) > 1:
        raise RecipeError(f"{most} processes were started by something else than torchrun or accelerate launch.")
    return 0, 1


def check_single_process(what: str) -> None:
    """Refuse several processes where one is to work alone.

    Args:
        what: What works in one process, as the beginning of a sentence.

    Raises:
        RecipeError: If a launcher started more than one; in all but the first, `FailedElsewhere`.
    """
    number, most = launched()
    if number > 0:
        raise FailedElsewhere("The first process says why.")
    if most > 1:
        raise RecipeError(f"{what} works in one process, and {most} were started: call it without a launcher.")


def asks_for_sharding() -> bool:
    """Whether accelerate's configuration asks for a sharded host (FSDP, version 2).

    nacre cuts the host itself, so accelerate is not asked any more afterwards.

    Raises:
        RecipeError: If it asks for another engine, or for what nacre does not do.
    """
    for variable, engine in OTHER_ENGINES.items():
        if os.environ.get(variable, "").lower() == "true":
            raise RecipeError(
                f"accelerate's configuration asks for {engine}, which nacre does not use: take "
                "distributed_type: MULTI_GPU for a model that fits each device, FSDP with fsdp_version: 2 for others."
            )
    if os.environ.pop("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("accelerate's configuration asks for the first version of FSDP: set fsdp_version: 2.")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        raise RecipeError(
            "accelerate's configuration asks for weights in main memory (fsdp_offload_params), which nacre does not "
            "do: set it to false."
        )
    return True


def torchrun(count: int) -> list[str]:
    """The words that start a module in so many processes of this machine; the module and its words follow."""
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    return [sys.executable, "-m", *words]


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that a launched process starts, and that is none of the launcher's processes."""
    return {name: value for name, value in environment.items() if not OF_LAUNCHERS.fullmatch(name)}


@contextmanager
def told_to_end() -> Iterator[None]:
    """Inside, one of several processes that is told to end, as launchers do when another one has died, says so."""
    number, most = launched()
    if most == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: int | FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one line is enough
        raise NacreError(
            f"Process {number + 1} of {most} was told to end, as launchers do when another one has ended. The same "
            "command goes on from what is saved."
        )

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _number(variable: str) -> int | None:
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else None
