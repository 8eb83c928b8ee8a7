"""Lets linear maps of the host make gradients of a step's kept features only, instead of masking whole ones."""

from __future__ import annotations

import functools
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import FeatureMap
from nacre.functional.kept_rows import ChosenRows, KeptRowsLinear, largest_rows


class KeptRows:
    """While active, plain linear layers compute weight gradients of a step's kept features only.

    The forward pass stays as it is. In a backward pass for which `ready()` is true, the gradients of all other features
    are zero, exactly as if the full gradient had been masked. Under autocast and without a graph the layers' own code
    runs; where the gradient is itself differentiated, it is computed in full.

    A layer is plain if it is an `nn.Linear` or GPT-2's `Conv1D` itself, not a subclass, owns its parameters and has no
    forward of its own. Hooks on the module are left alone. `close` restores all layers.
    """

    def __init__(
        self,
        maps: Sequence[FeatureMap],
        kept: Sequence[int],
        *,
        ready: Callable[[], bool],
        scores: Callable[[], Sequence[Tensor]],
    ) -> None:
        """Patch the plain layers.

        Args:
            maps: The linear maps that are masked; those that are not plain are left alone.
            kept: How many features of each map are updated.
            ready: Called by every map in every backward pass: whether the scores of this step are complete and its
                gradients are those that will be masked.
            scores: Each map's scores [features]; called once a step, by the first map in the backward pass.
        """
        self.maps = maps
        self.kept = kept
        self.ready = ready
        self.scores = scores
        self.chosen: list[ChosenRows] | None = None  # of this step
        self.gradients: dict[int, _Fingerprint] = {}  # that were made in this step, by their parameter's id
        self.patched: list[nn.Module] = []
        for number, feature_map in enumerate(maps):
            if is_plain(feature_map):
                choice = _Choice(self, number)
                module = feature_map.module
                # A partial with the module as its argument: a deep copy of the host computes with its own weights.
                module.forward = functools.partial(_forward, choice, module)
                self.patched.append(module)

    def close(self) -> None:
        """Restore the layers' own forward."""
        for module in self.patched:
            module.__dict__.pop("forward", None)
        self.patched = []

    def take(self) -> list[Tensor] | None:
        """Masks [features] of this step, one for each map; None if no backward pass has chosen them."""
        return None if self.chosen is None else [rows.mask for rows in self.chosen]

    def clear(self) -> None:
        """Forget the step."""
        self.chosen = None
        self.gradients = {}

    def only_kept(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter's gradient is 0 outside the kept features already.

        It is where the gradient was computed here, nothing was added to it (penalties, tied weights, other
        micro-batches) and nobody has changed it.
        """
        made = self.gradients.get(id(parameter))
        return made is not None and parameter.grad is not None and made.is_of(parameter.grad)

    def choose(self, number: int) -> ChosenRows | None:
        """The features of map `number` to compute in this backward pass; None for all."""
        if not self.ready():
            return None
        if self.chosen is None:
            self.chosen = self._choose()
        return self.chosen[number]

    def _choose(self) -> list[ChosenRows]:
        """Maps of one size are chosen together, which saves hundreds of small operations."""
        scores = self.scores()
        sizes: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for number, (score, kept) in enumerate(zip(scores, self.kept, strict=True)):
            sizes[len(score), kept, score.device, score.dtype].append(number)
        chosen: dict[int, ChosenRows] = {}
        for numbers in sizes.values():
            rows = largest_rows([scores[number] for number in numbers], self.kept[numbers[0]])
            chosen.update(zip(numbers, rows, strict=True))
        return [chosen[number] for number in range(len(self.maps))]

    def note(self, number: int, weight: Tensor | None, bias: Tensor | None) -> None:
        """Remember the gradients that map `number` returned."""
        module = self.maps[number].module
        for parameter, gradient in ((module.weight, weight), (module.bias, bias)):
            if gradient is not None:
                self.gradients[id(parameter)] = _Fingerprint(gradient)


class _Choice:
    """The choice of map `number`."""

    def __init__(self, owner: KeptRows, number: int) -> None:
        self.owner = owner
        self.number = number

    def rows(self) -> ChosenRows | None:
        return self.owner.choose(self.number)

    def made(self, weight: Tensor | None, bias: Tensor | None) -> None:
        self.owner.note(self.number, weight, bias)


class _Fingerprint:
    """Recognizes a gradient without holding it: the same memory, still alive, not written to since.

    Autograd takes over a gradient that nobody else holds, and copies any other.
    """

    def __init__(self, gradient: Tensor) -> None:
        self.memory = weakref.ref(gradient.untyped_storage())
        self.version = gradient._version

    def is_of(self, gradient: Tensor) -> bool:
        return self.memory() is gradient.untyped_storage() and self.version == gradient._version


def is_plain(feature_map: FeatureMap) -> bool:
    """Whether the map is PyTorch's linear layer or GPT-2's, and the trained parameters are its own."""
    module = feature_map.module
    own = {id(parameter) for parameter in module._parameters.values() if parameter is not None}
    return (
        (type(module) is nn.Linear or (type(module) is Conv1D and module.bias is not None))
        and "forward" not in module.__dict__
        and feature_map.input_of is None
        and own == {id(parameter) for parameter, _ in feature_map.parameters}
        and all(type(parameter) is nn.Parameter for parameter, _ in feature_map.parameters)
    )


def _forward(choice: _Choice, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    x = args[0] if len(args) == 1 and not kwargs else None
    if (
        not isinstance(x, Tensor)
        or x.dim() < 2
        or not torch.is_grad_enabled()
        or torch.is_autocast_enabled(x.device.type)
    ):
        plain: Tensor = type(module).forward(module, *args, **kwargs)
        return plain
    h: Tensor = KeptRowsLinear.apply(  # type: ignore[no-untyped-call]
        x, module.weight, module.bias, isinstance(module, Conv1D), choice
    )
    return h
