"""Which tensors of the many sites are worked on in one product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

T = TypeVar("T")


def alike(items: Iterable[T], shape: Callable[[T], torch.Size], device: torch.device) -> list[list[T]]:
    """Items of equal shape together, in their order: an accelerator is told once for all what to do. On the CPU each
    is by itself: a call costs little there, and nothing need be stacked."""
    if device.type == "cpu":
        return [[item] for item in items]
    found: dict[torch.Size, list[T]] = defaultdict(list)
    for item in items:
        found[shape(item)].append(item)
    return list(found.values())
