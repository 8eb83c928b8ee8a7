"""Seeds as a function of where they are used, so that nothing depends on what ran before."""

from __future__ import annotations

import hashlib


def derive(seed: int, *where: str | int) -> int:
    """A seed for one use, computed from the run's seed and the names of the place that uses it.

    Args:
        seed: The run's seed.
        where: Names and numbers that identify the use.

    Returns:
        63 bits; the same for the same arguments on every machine and Python version.
    """
    text = "/".join([str(seed), *map(str, where)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
