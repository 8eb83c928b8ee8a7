"""Measures how large the outputs of linear maps are while the host computes: per feature, summed over tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nacre.adapters.adapter import FeatureMap
from nacre.errors import TrainingError
from nacre.features.token_streams import TokenStream, arguments_of, stream_of, token_masks
from nacre.functional.masking import magnitude_sum

CountedTokens = Literal["non_padding", "all"]


class Magnitudes:
    """Sum over counted tokens of |h_j| for every feature j of every map, over all calls of the model since `take`.

    Only what runs inside a call of the model counts. So activation checkpointing, which runs modules a second time
    during the backward pass, does not count them twice. A module that is called several times in one call counts
    several times. `close` removes all hooks.
    """

    def __init__(
        self,
        model: nn.Module,
        maps: Sequence[FeatureMap],
        tokens: CountedTokens = "non_padding",
        *,
        counts: Callable[[], bool] = torch.is_grad_enabled,
    ) -> None:
        """Register the hooks.

        Args:
            model: The host, which is called as a whole, wrapped by others or not.
            maps: The linear maps to measure.
            tokens: Which tokens count: `non_padding`, or `all`, padding included.
            counts: Called whenever the model is called: whether this call counts.

        Raises:
            ModelError: Which tokens a map reads is not known for this architecture.
        """
        self.model = model
        self.maps = maps
        self.tokens = tokens
        self.counts = counts
        self.streams: list[TokenStream] = [
            "input" if tokens == "all" else stream_of(model, each.place) for each in maps
        ]
        self.masks: dict[TokenStream, tuple[Tensor | None, Tensor | None]] = {}  # of this call: which tokens, how many
        self.open = False  # inside a call that counts
        self.clear()
        self.handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            # Also after an error in the model; otherwise what runs later on its own would count.
            model.register_forward_hook(self._end, always_call=True),
        ]
        for number, feature_map in enumerate(maps):
            measured = feature_map.input_of or feature_map.module
            self.handles.append(measured.register_forward_hook(functools.partial(self._count, number)))

    def clear(self) -> None:
        """Forget everything that was counted."""
        self.any = False
        self.sums: list[Tensor | None] = [None] * len(self.maps)
        self.numbers: list[list[Tensor | int]] = [[] for _ in self.maps]  # of tokens, call by call

    def take(self) -> list[Tensor]:
        """Sums since the last time, [features] for each map (zeros for one that did not run); forgets them."""
        sums = self._filled()
        self.clear()
        return sums

    def take_means(self) -> list[Tensor]:
        """The same as means over the tokens that each map was measured on."""
        means = [total / max(sum(numbers), 1) for total, numbers in zip(self._filled(), self.numbers, strict=True)]
        self.clear()
        return means

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _filled(self) -> list[Tensor]:
        return [
            torch.zeros(each.features, device=each.parameters[0][0].device) if total is None else total
            for each, total in zip(self.maps, self.sums, strict=True)
        ]

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.open = self.counts()
        if not self.open:
            return
        self.any = True
        if self.tokens == "non_padding":
            masks = token_masks(model, arguments_of(model, args, kwargs))
            # As numbers, here and not for every map: the magnitudes are multiplied with them.
            self.masks = {
                stream: (None, None) if mask is None else (mask.float(), mask.sum()) for stream, mask in masks.items()
            }

    def _end(self, *_: object) -> None:
        self.open = False
        self.masks = {}

    @torch.no_grad()
    def _count(self, number: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self.open:
            return
        feature_map = self.maps[number]
        if feature_map.input_of is not None:
            output = feature_map.module(args[0].to(feature_map.parameters[0][0].dtype))
        mask, real = self.masks.get(self.streams[number], (None, None))
        if mask is not None and output.shape[:-1] != mask.shape:
            raise TrainingError(
                f"{feature_map.name} gave outputs of shape {[*output.shape]} for {[*mask.shape]} tokens, so "
                "it is unknown which of them are padding: count all tokens (tokens=all)."
            )
        total, earlier = magnitude_sum(output, mask), self.sums[number]
        self.sums[number] = total if earlier is None else earlier + total
        self.numbers[number].append(output.numel() // len(total) if real is None else real)


def summed_over_processes(sums: Sequence[Tensor]) -> list[Tensor]:
    """Sums over all processes that share each step's rows, in one exchange; the same on all of them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return list(sums)
    flat = torch.cat(list(sums))
    torch.distributed.all_reduce(flat)
    return list(torch.split(flat, [len(total) for total in sums]))
