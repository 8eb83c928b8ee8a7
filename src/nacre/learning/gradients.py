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
from nacre.models.sharding import is_part, own_part

AT_ONCE = 2**25
"""Numbers that are exchanged at once."""


@torch.no_grad()
def average_over_processes(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes.

    One that is missing somewhere counts as 0 there; one that all miss stays missing.

    Those of sharded parameters are means already: each process has been given its rows of them.

    Args:
        parameters: The same ones in every process, in the same order.
    """
    parameters = [parameter for parameter in parameters if not is_part(parameter)]
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


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down to a norm, if theirs is larger. Returns what it was, [].

    Args:
        parameters: The same ones in every process.
        largest: The norm of all gradients together.
    """
    sharded = [parameter for parameter in parameters if is_part(parameter) and parameter.grad is not None]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(parameters, largest)
    whole = [parameter for parameter in parameters if not is_part(parameter)]
    own = [own_part(parameter.grad) for parameter in sharded if parameter.grad is not None]
    squares = torch.nn.utils.get_total_norm(own).square()
    torch.distributed.all_reduce(squares)
    others = torch.nn.utils.get_total_norm([each.grad for each in whole if each.grad is not None])
    norm = (squares + others.square()).sqrt()
    for gradient in (*own, *(each.grad for each in whole if each.grad is not None)):
        gradient.mul_((largest / (norm + 1e-6)).clamp(max=1))  # as torch does
    return norm


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
