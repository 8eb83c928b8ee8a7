"""The diagonal of the Fisher information, from the gradients of single examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nacre.functional.losses import IGNORED


def mean_squared_gradients(losses: Iterable[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """F_j = 1/m sum_n (d loss_n / d theta_j)^2, for every entry j of every parameter.

    losses: one scalar for each of the m >= 1 examples; an iterator is drawn from one by one, so that a single graph is
    alive at a time. The mean is taken of squares: the square of a batch's mean gradient would be smaller by about the
    size of the batch.

    Returns tensors of the parameters' shapes, in at least float32; zero for a parameter that no loss depends on. No
    ``.grad`` is touched.
    """
    totals = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.to(total.dtype).square()  # squared only then: half precision would underflow
        count += 1
    return [total / count for total in totals]


def divided_by_mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors over the mean of all their entries together, which is 1 afterwards; all zeros stay zeros."""
    mean = torch.stack([tensor.sum() for tensor in tensors]).sum() / sum(tensor.numel() for tensor in tensors)
    return [tensor / torch.where(mean > 0, mean, 1.0) for tensor in tensors]


def drawn_labels(logits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Every label replaced by one drawn from softmax(logits) at its own position; ``IGNORED`` ones stay.

    logits [..., V], labels [...] -> [...]. generator: on the CPU, where all numbers are drawn, whatever the device.
    """
    asked = labels != IGNORED
    shares = torch.softmax(logits.detach()[asked].double(), dim=-1).cpu()
    drawn = labels.clone()
    drawn[asked] = torch.multinomial(shares, 1, generator=generator).squeeze(-1).to(labels.device)
    return drawn
