"""What a computation does and keeps, counted: operations, and bytes for the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = set("view _unsafe_view t transpose unsqueeze squeeze permute select slice detach alias".split())


class Operations(TorchDispatchMode):
    """While open, counts what is computed, views left out. largest: numbers of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if name not in VIEWS:
            self.found[name] += 1
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
        return made


def kept_bytes(run: Callable[[], object], own: Iterable[Tensor]) -> int:
    """Bytes that a run keeps for its backward pass beside its own tensors; each storage once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())
