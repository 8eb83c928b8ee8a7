"""Tensors of many sites in one product: those of equal shape together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def group_by_shape(items: Iterable[T], shape: Callable[[T], torch.Size], device: torch.device) -> list[list[T]]:
    """Group items of equal shape so that an accelerator handles each group in one batched kernel.

    On a CPU every item is its own group: a launch is cheap there, and stacking would copy.

    Args:
        items: Tensors, or what holds them.
        shape: The shape of an item.
        device: Where the products are computed.

    Returns:
        The groups in the order of their first items; within a group, items keep their order.
    """
    if device.type == "cpu":
        return [[item] for item in items]
    groups: dict[torch.Size, list[T]] = defaultdict(list)
    for item in items:
        groups[shape(item)].append(item)
    return list(groups.values())


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one, [n, ...]; a single tensor gives a view in its own layout."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
