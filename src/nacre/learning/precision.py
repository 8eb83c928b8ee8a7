"""accelerate as one training wants it, whatever precision others in this process have chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from nacre.processes import only_cpu


@contextmanager
def accelerator_of(mixed_precision: str) -> Iterator[Accelerator]:
    """An accelerator of this precision; afterwards the process's own state is back.

    accelerate keeps the precision once for a process and refuses a second one. Somebody's own accelerator, made before,
    goes on with the state that it had.

    Args:
        mixed_precision: `no`, `bf16` or `fp16`.
    """
    shared = AcceleratorState._shared_state
    before = dict(shared)
    shared.clear()
    try:
        yield Accelerator(mixed_precision=mixed_precision, cpu=only_cpu())
    finally:
        shared.clear()
        shared.update(before)
