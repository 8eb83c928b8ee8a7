"""The diagonal of the Fisher information, from the gradients of single examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nacre.functional.losses import IGNORED


def mean_squared_gradients(
    losses: Iterable[Tensor],
    parameters: Sequence[Tensor],
    *,
    of: Callable[[Tensor], Sequence[Tensor | None]] | None = None,
) -> list[Tensor]:
    """F_j = 1/m sum_n (d loss_n / d theta_j)^2, for every entry j of every parameter.

    The mean is taken of squares: the square of a batch's mean gradient would be smaller by about the size of the batch.
    No `.grad` is touched.

    Args:
        losses: One scalar for each of the m >= 1 examples. An iterator is drawn from one by one, so that a single graph
            is alive at a time.
        parameters: Leaves that the losses depend on.
        of: Computes a loss's gradients by all parameters in another way; None: autograd does.

    Returns:
        F in the parameters' shapes, in float32 at least; 0 for a parameter that no loss depends on.
    """
    totals = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if of is None else of(loss)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.to(total.dtype).square()  # squared only then: half precision would underflow
        count += 1
    return [total / count for total in totals]


def divided_by_mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Divide by the mean of all entries of all tensors, which is 1 afterwards; all zeros stay zeros."""
    mean = torch.stack([tensor.sum() for tensor in tensors]).sum() / sum(tensor.numel() for tensor in tensors)
    return [tensor / torch.where(mean > 0, mean, 1.0) for tensor in tensors]


def drawn_labels(logits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Replace every label by one drawn from softmax(logits) at its own position; `IGNORED` ones stay.

    Args:
        logits: [..., V].
        labels: [...].
        generator: Of the CPU, where all numbers are drawn, whatever the device.

    Returns:
        Drawn labels, [...].
    """
    is_target = labels != IGNORED
    shares = torch.softmax(logits.detach()[is_target].double(), dim=-1).cpu()
    drawn = labels.clone()
    drawn[is_target] = torch.multinomial(shares, 1, generator=generator).squeeze(-1).to(labels.device)
    return drawn
