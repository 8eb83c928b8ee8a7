"""The loss of generated answers: a sum over target tokens, so that it can be divided once, by the global count."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


def token_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods of the target tokens, in float32 at least.

    Args:
        logits: [..., V].
        labels: Target tokens, [...]; `IGNORED` where there is none.

    Returns:
        A scalar, in nats.
    """
    logits = logits.flatten(0, -2)
    if logits.element_size() < 4:
        logits = logits.float()
    return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")
