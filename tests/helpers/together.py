"""Several processes that learn together, and one that learns the same alone: run as a script, under a launcher or not.

python -m helpers.together FILE ARCHITECTURE DTYPE [--sharded] [--steady] VARIANT...

With --steady AdamW's epsilon lies above what rounding makes of a gradient that is 0: its step jumps no more there.
"""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from helpers.contract import PROOFS, VARIANTS, held_method
from helpers.tiny import tiny_host, tiny_task
from nacre import processes
from nacre.adapters.full import Full
from nacre.adapters.gated_host import GatedHost
from nacre.adapters.latent import Latent
from nacre.adapters.spectral import Spectral
from nacre.events import ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.parts.distillation import Distillation
from nacre.parts.evidence_offset import EvidenceOffset
from nacre.registry import METHODS, build_method, parameters_of

OPTIM = Optim(batch_size=5, accumulation=2, epochs=2, learning_rate=1e-3, max_target_length=8, log_every=1)
"""Twelve rows in steps of five, five and two."""


BY_MICRO_BATCH = ("das", "das-update")
"""They contrast the rows of a micro-batch with each other, and so depend on `optim.accumulation`, too."""

UNSTEADY = ("gain_lora", "l_cl")
"""Variants that rounding alone moves far. In float64 on a T5, 1e-15 of the host's weights moves gain_lora by 2e-4 and
l_cl by 6e-3, as another `optim.accumulation` does. gain_lora's is AdamW's step where a gradient is nearly 0."""


def needs_whole_host(variant: str, architecture: str) -> bool:
    """Whether the variant is refused where the host is sharded.

    Such ones train, split or copy the host's own weights, or train on label scores of a decoder-only host.
    """
    method = held_method(variant)
    if isinstance(method.adapter, Latent | Spectral | GatedHost):
        return True
    if isinstance(method.adapter, Full) and not all(part.shardable for part in method.parts):
        return True
    return any(
        isinstance(part, Distillation) or (isinstance(part, EvidenceOffset) and architecture == "llama")
        for part in method.parts
    )


def environment() -> dict[str, str]:
    """Of a process that finds what this one finds."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def words_of(count: int, arguments: Sequence[str]) -> list[str]:
    """The command that runs Python with these arguments in so many processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(port)]
    return [sys.executable, *(group if count > 1 else []), *arguments]


def launched(count: int, arguments: Sequence[str], timeout: int = 500) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in so many processes, when they have ended."""
    return subprocess.run(
        words_of(count, arguments), env=environment(), capture_output=True, text=True, timeout=timeout
    )


def without_dropout(variant: str) -> Method:
    """A method of the contract; the processes that learn together draw dropout each for itself."""
    if variant in PROOFS:
        return PROOFS[variant]()
    name, parameters = VARIANTS[variant]
    takes = parameters_of(METHODS.function(name.partition("+")[0]))
    return build_method(name, {**parameters, "dropout": 0.0} if "dropout" in takes else parameters)


def learned(variant: str, architecture: str, dtype: torch.dtype, *, sharded: bool = False) -> dict[str, Any]:
    """Everything that a learner of the variant has become after three tasks, and what it answers."""
    host = tiny_host(architecture, dtype)
    if sharded:
        processes.device()  # forms their group
        host.shard()
        assert host.is_sharded
    learner = Learner(host, without_dropout(variant), seed=2, optim=OPTIM, on_event=ignore)
    tasks = [tiny_task(name) for name in ("animals", "birds", "fish")]
    stages = learner.method.curriculum.stages(tasks)
    for stage in stages:
        if stage.afresh and learner.state.tasks:
            learner = learner.restart()
        learner.learn(*stage.tasks)
    found = copy.deepcopy(learner.snapshot())  # the learner's own tensors go with it
    answers = [score.answers for score in learner.evaluate([replace(task, test=task.train) for task in tasks])]
    work = (learner.work.tokens,)
    learner.remove()
    return {
        "tensors": {name: dict(owner.tensors) for name, owner in found.owners.items()} | {"parts": dict(found.parts)},
        "answers": answers,
        "work": work,
    }


def main(file: str, architecture: str, dtype: str, *variants: str) -> None:
    torch.set_num_threads(1)
    found = {}
    flags = [word for word in variants if word.startswith("--")]
    sharded = "--sharded" in flags
    if "--steady" in flags:
        torch.optim.AdamW = partial(torch.optim.AdamW, eps=1e-4)
    for variant in variants[len(flags) :]:
        try:
            found[variant] = learned(variant, architecture, getattr(torch, dtype), sharded=sharded)
        except Exception as error:
            if os.environ.get("EXPLORE") is None:
                raise
            found[variant] = repr(error)
    torch.save([processes.count(), found], Path(f"{file}-{processes.rank()}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
