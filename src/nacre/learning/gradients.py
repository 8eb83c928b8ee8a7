"""Gradients of several processes, averaged before anybody looks at them.

The parameters of a method are replicated, and one exchange a step averages their gradients: those of the adapter, and
those that lie outside the host's model, as keys and gates do. DistributedDataParallel is not used: it stops where a
parameter has no gradient in one of the processes (the head of a rehearsed task that has no row there), and knows no
parameter outside the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nacre import processes

AT_ONCE = 2**25
"""Numbers that are exchanged at once."""


@torch.no_grad()
def average_over_processes(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes.

    One that is missing somewhere counts as 0 there; one that all miss stays missing.

    Args:
        parameters: The same ones in every process, in the same order.
    """
    if processes.count() == 1 or not parameters:
        return
    has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
    somewhere = has_gradient.to(parameters[0].device)
    torch.distributed.all_reduce(somewhere)
    for parameter in (parameter for parameter, number in zip(parameters, somewhere.tolist(), strict=True) if number):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for gradients in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= processes.count()
        for gradient, mean in zip(gradients, torch.split(flat, [own.numel() for own in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients of one kind that are exchanged at once."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(own.numel() for own in bucket) + gradient.numel() > AT_ONCE
        if bucket and (full or (gradient.dtype, gradient.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
