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
    """While open, the plain linear maps among ``maps`` compute their forward pass as ever, and in a backward pass for
    which ``ready`` says so the gradients of their kept features only. All others are 0: what masking would make of the
    whole gradient.

    kept: how many features of each map. ready: asked by every map in every backward pass: whether the scores of this
    step are complete and its gradients are those that will be masked. scores: of each map [features], asked once a
    step, by the first map whose turn it is in the backward pass.

    Whole gradients are made, by the maps' own code, under autocast and without a graph; by the same equations, where
    the gradient is itself differentiated. A map is plain if it is an ``nn.Linear`` or GPT-2's ``Conv1D`` itself, no
    subclass, owns its parameters and has no forward of its own; whatever else is done to the module (hooks) is left
    alone. ``close`` gives all maps back.
    """

    def __init__(
        self,
        maps: Sequence[FeatureMap],
        kept: Sequence[int],
        *,
        ready: Callable[[], bool],
        scores: Callable[[], Sequence[Tensor]],
    ) -> None:
        self.maps = maps
        self.kept = kept
        self.ready = ready
        self.scores = scores
        self.chosen: list[ChosenRows] | None = None  # of this step
        self.gradients: dict[int, _Fingerprint] = {}  # that were made in this step, by their parameter's id
        self.patched: list[nn.Module] = []
        for number, found in enumerate(maps):
            if is_plain(found):
                choice = _Choice(self, number)
                # A partial with the module as its argument: a deep copy of the host computes with its own weights.
                found.module.forward = functools.partial(_forward, choice, found.module)
                self.patched.append(found.module)

    def close(self) -> None:
        for module in self.patched:
            module.__dict__.pop("forward", None)
        self.patched = []

    def take(self) -> list[Tensor] | None:
        """The masks [features] of this step, for all maps; None if no gradient has asked for them."""
        return None if self.chosen is None else [rows.mask for rows in self.chosen]

    def clear(self) -> None:
        """Forget the step."""
        self.chosen = None
        self.gradients = {}

    def only_kept(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter's gradient is one that was made here, with nothing added to it (penalties, tied
        weights, other micro-batches) and nothing done to it: then it is 0 outside the kept features."""
        made = self.gradients.get(id(parameter))
        return made is not None and parameter.grad is not None and made.is_of(parameter.grad)

    def choose(self, number: int) -> ChosenRows | None:
        """The rows of map ``number`` in this backward pass; None: all."""
        if not self.ready():
            return None
        if self.chosen is None:
            self.chosen = self._choose()
        return self.chosen[number]

    def _choose(self) -> list[ChosenRows]:
        """Maps of one size in one go: on the whole hundreds of small operations fewer."""
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
        """These are the gradients that map ``number`` hands on."""
        module = self.maps[number].module
        for parameter, gradient in ((module.weight, weight), (module.bias, bias)):
            if gradient is not None:
                self.gradients[id(parameter)] = _Fingerprint(gradient)


class _Choice:
    """What map ``number`` asks and tells."""

    def __init__(self, owner: KeptRows, number: int) -> None:
        self.owner = owner
        self.number = number

    def rows(self) -> ChosenRows | None:
        return self.owner.choose(self.number)

    def made(self, weight: Tensor | None, bias: Tensor | None) -> None:
        self.owner.note(self.number, weight, bias)


class _Fingerprint:
    """Tells whether a gradient is the one that was made, without holding it: autograd takes over a gradient that nobody
    else holds, and copies any other. It is the same memory, which lives on, and nobody has written to it since."""

    def __init__(self, gradient: Tensor) -> None:
        self.memory = weakref.ref(gradient.untyped_storage())
        self.version = gradient._version

    def is_of(self, gradient: Tensor) -> bool:
        return self.memory() is gradient.untyped_storage() and self.version == gradient._version


def is_plain(found: FeatureMap) -> bool:
    """Whether the map is a linear map of PyTorch's or GPT-2's own making, and the trained parameters are its own."""
    module = found.module
    own = {id(parameter) for parameter in module._parameters.values() if parameter is not None}
    return (
        (type(module) is nn.Linear or (type(module) is Conv1D and module.bias is not None))
        and "forward" not in module.__dict__
        and found.input_of is None
        and own == {id(parameter) for parameter, _ in found.parameters}
        and all(type(parameter) is nn.Parameter for parameter, _ in found.parameters)
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
