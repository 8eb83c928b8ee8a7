"""HAT (arXiv 1801.01423): gates `a = sigmoid(s e)` on units, near to 0 or 1, and what earlier tasks' gates protect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EXPONENT = 50.0
"""Beyond it `s e` is cut off in the compensation, where the gate's derivative vanishes anyway."""


def annealed_slope(batch: int, batches: int, largest: float) -> float:
    """s of a batch: `1/smax + (smax - 1/smax) (b - 1) / (B - 1)`, HAT Eq. 3.

    Args:
        batch: b, from 1.
        batches: B. A single one has smax.
        largest: smax.
    """
    if batches == 1:
        return largest
    return 1 / largest + (largest - 1 / largest) * (batch - 1) / (batches - 1)


def compensated(gradient: Tensor, embedding: Tensor, slope: float, largest: float) -> Tensor:
    """The gradient of e as if its gate had been `sigmoid(e)` all along, times smax, HAT Eq. 6.

    `g (smax / s) (cosh(s e) + 1) / (cosh(e) + 1)`. Since `2 sigmoid'(x) = 1 / (cosh(x) + 1)`, this is
    `smax sigmoid'(e) dL/da` for every s.

    Args:
        gradient: g, the gradient of e under the slope s.
        embedding: e.
        slope: s.
        largest: smax.
    """
    steep = (slope * embedding).clamp(-EXPONENT, EXPONENT)
    return gradient * ((largest / slope) * (steep.cosh() + 1) / (embedding.cosh() + 1))


def free_share(used: Sequence[Tensor]) -> Tensor:
    """How much of a parameter's update stays: `1 - min` over the units at its ends, HAT Eq. 2.

    Args:
        used: A of the units at each end, broadcastable to the parameter's shape; at least one.
    """
    least = used[0]
    for other in used[1:]:
        least = torch.minimum(least, other)
    return 1 - least


def newly_used(gates: Sequence[Tensor], used: Sequence[Tensor]) -> Tensor:
    """The share of the free units that the new gates take: `sum a (1 - A) / sum (1 - A)`, HAT Eq. 5.

    Args:
        gates: a of the new task, [units] for each layer.
        used: A of the earlier ones.

    Returns:
        [], with the gates' graph; 0 where no unit is free.
    """
    free = [1 - each for each in used]
    taken = torch.stack([(gate * rest).sum() for gate, rest in zip(gates, free, strict=True)]).sum()
    return taken / torch.stack([rest.sum() for rest in free]).sum().clamp(min=torch.finfo(taken.dtype).tiny)
