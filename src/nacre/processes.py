"""The processes that carry out a run together: the first one writes, and all of them agree on what failed.

A launcher starts them (`torchrun`, `accelerate launch`), and accelerate forms their group. Without a launcher there is
one process, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from nacre.errors import FailedElsewhere, NacreError

R = TypeVar("R")
S = TypeVar("S")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others, which may load, write or measure something alone. The death of one is
noticed at once, by its closed connections or by the launcher."""

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def device() -> torch.device:
    """Where this process computes. When it is first asked for, several processes form their group."""
    from accelerate import PartialState

    own: torch.device = PartialState(cpu=only_cpu(), timeout=PATIENCE).device
    return own


def only_cpu() -> bool:
    """accelerate forms a group of processes on CPUs only if it knows that there is nothing else."""
    return not torch.accelerator.is_available()


def count() -> int:
    """How many processes work together now."""
    return torch.distributed.get_world_size() if _is_formed() and not _ALONE.get() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return torch.distributed.get_rank() if _is_formed() and not _ALONE.get() else 0


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def is_alone() -> bool:
    """Whether this process does something while the others wait (`by_first`)."""
    return _ALONE.get()


def by_first(action: Callable[[], R]) -> R:
    """What the first process does alone, while the others wait.

    Args:
        action: What it does.

    Returns:
        Its value, in every process.

    Raises:
        FailedElsewhere: In the other processes, where it raises something.
    """
    if count() == 1:
        return action()
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if is_first():
        token = _ALONE.set(True)
        try:
            outcome[0] = action()
        except Exception as error:
            failure, outcome[1] = error, _line(error)
        finally:
            _ALONE.reset(token)
    torch.distributed.broadcast_object_list(outcome, src=0)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise FailedElsewhere(f"Process 1 of {count()} failed: {outcome[1]}")
    value: R = outcome[0]
    return value


def said_once(error: NacreError) -> NacreError:
    """The error to raise where all processes have found it together, so that one of them says it."""
    return error if is_first() else FailedElsewhere(f"Process 1 of {count()} says: {error}")


@contextmanager
def together() -> Iterator[None]:
    """Inside, all processes do the same, and none waits for another. If one fails, all end.

    Raises:
        FailedElsewhere: Where another process has failed, and says so.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if count() == 1:
            raise
        failure = error
    if count() == 1:
        return
    lines = gathered(None if failure is None else _line(failure))
    failed = next((number for number, line in enumerate(lines) if line is not None), None)
    if failure is not None and failed == rank():
        raise failure
    if failed is not None:
        raise FailedElsewhere(f"Process {failed + 1} of {count()} failed: {lines[failed]}") from failure


def gathered(own: R) -> list[R]:
    """What each process has, by its number.

    Args:
        own: What this one has: plain values, lists and tensors; tensors of others come to this process's device.
    """
    if count() == 1:
        return [own]
    from accelerate.utils import send_to_device

    found: list[Any] = [None] * count()
    torch.distributed.all_gather_object(found, send_to_device(own, "cpu"))
    everything: list[R] = send_to_device(found, device())
    return everything


def by_all(work: Callable[[S], R], items: Sequence[S], *, in_step: bool = False) -> Iterator[R]:
    """What work makes of each item, in their order. Several processes share the items out, and each gets everything.

    Args:
        work: The same in every process.
        items: The same ones in every process.
        in_step: Whether no process can work without the others, so that each must do everything.
    """
    if count() == 1 or in_step:
        yield from map(work, items)
        return
    shares = gathered([work(item) for item in items[rank() :: count()]])
    yield from (shares[place % count()][place // count()] for place in range(len(items)))


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors of every process the values that they have in the first one, in place.

    What each process computed from the same numbers may differ in the last bits.

    Args:
        tensors: The same ones in every process, in the same order.
    """
    if count() == 1:
        return
    for tensor in tensors:
        own = tensor.detach().to(device()).contiguous()
        torch.distributed.broadcast(own, src=0)
        tensor.copy_(own)


def _is_formed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _line(error: Exception) -> str:
    said = str(error) if isinstance(error, NacreError) else f"{type(error).__name__}: {error}"
    return (said.splitlines() or [type(error).__name__])[0]
