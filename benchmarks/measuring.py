"""How is measured: all variants live in one process and take turns, in a shuffled order, round after round; each round
gives one ratio of a variant to its reference in that round. Machines are shared and noisy, so that absolute times mean
little, and so does a ratio without the one that shows what a difference of nothing looks like: every part measures
a reference twice.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """run: what is measured. against: the name of the variant that it is compared with. before: done before each
    run and not measured. model: whose own tensors do not count as saved; None: saved bytes are not asked for. part:
    whether only a part of a run is meant, whose CPU seconds it returns."""

    run: Callable[[], object]
    against: str
    before: Callable[[], object] = lambda: None
    model: nn.Module | None = None
    part: bool = False


@dataclass(frozen=True)
class Measured:
    """ratios: to ``against``, one a round. seconds: of CPU time, or of the GPU's, one a round. saved: bytes kept for
    the backward pass; None if not asked for. extra: numbers of one part alone."""

    name: str
    against: str
    ratios: list[float]
    seconds: list[float]
    saved: int | None = None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


def measure(variants: Mapping[str, Variant], rounds: int, device: torch.device) -> list[Measured]:
    """Each variant runs once before, which is not timed; saved bytes are counted then."""
    saved: dict[str, int | None] = {}
    for name, variant in variants.items():
        variant.before()
        saved[name] = None if variant.model is None else saved_bytes(variant.model, variant.run)
        if variant.model is None:
            variant.run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            variants[name].before()
            own = variants[name].run
            seconds[name].append(float(own()) if variants[name].part else seconds_of(own, device))  # type: ignore[arg-type]
    return [
        Measured(
            name=name,
            against=variant.against,
            ratios=[own / base for own, base in zip(seconds[name], seconds[variant.against], strict=True)],
            seconds=seconds[name],
            saved=saved[name],
        )
        for name, variant in variants.items()
    ]


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """CPU time of this process; on a GPU the time between two events of its stream."""
    if device.type != "cuda":
        started = time.process_time()
        run()
        return time.process_time() - started
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def saved_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that a run keeps for its backward pass: each storage once, parameters and buffers not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(seen.values())
