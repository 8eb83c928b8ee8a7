"""Seeds as a function of where they are used, so that nothing depends on what ran before."""

from __future__ import annotations

import hashlib


def derive(seed: int, *where: str | int) -> int:
    """A 63-bit seed for one use, computed from the run's seed and the names of the place that uses it.

    The same arguments give the same number on every machine and Python version.
    """
    text = "/".join([str(seed), *map(str, where)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
