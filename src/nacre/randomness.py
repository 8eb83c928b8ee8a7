"""torch's own random state, for code that takes no generator: dropout inside a model, and its first weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_STATE = threading.RLock()
"""The state is the process's, not the thread's: two threads that drew from it would get each other's numbers."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch for what happens inside, and leave the caller's own random state as it was.

    One thread at a time is inside; others wait.

    Args:
        seed: Of everything that is drawn inside.
    """
    with _STATE, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
