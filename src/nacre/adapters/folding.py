"""Merging summed LoRA updates into a working copy of the weight, and when not to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from nacre.adapters.site import Site
from nacre.functional.low_rank import folded_weight

LOST_IN_HALF_PRECISION = 1e-2
"""|s sum B_i A_i|_F / |W|_F below which an update is not added to a weight of half precision. bfloat16 keeps a number
to one part in 2^8: rounding the sum errs by 0.17 % of the weight, which at this ratio is 17 % of the update, at a tenth
of it 80 %. float16 is eight times finer; one limit for both keeps the choice simple."""


@final
@dataclass(frozen=True)
class Folding:
    """Whether a site's earlier tasks are folded.

    Attributes:
        ratio: `|s sum_{i<t} B_i A_i|_F / |W|_F`; None where `W` cannot be read.
        obstacle: Why their sum is not part of a working copy of the weight; None if it is.
    """

    ratio: float | None
    obstacle: str | None = None


def folded(pristine: Tensor, down: Tensor, up: Tensor, *, scale: float) -> tuple[Tensor | None, Folding]:
    """`W + s sum B_i A_i` in W's type, from the pristine weight and all the tasks at once.

    It is formed anew each time: adding the newest to the last working weight would cost less, but would round once a
    task, and a resumed run would have other bits.

    Args:
        pristine: `W` [d_out, d_in].
        down: `A_i` [t, r, d_in], in full precision.
        up: `B_i`, transposed [t, r, d_out], in full precision.
        scale: `s`.

    Returns:
        The sum [d_out, d_in], None where it would be lost in the rounding; and the folding's ratio and obstacle.
    """
    weight = pristine.to(down.dtype)
    total = folded_weight(weight, down, up, scale=scale)
    update, size = torch.dist(total, weight).item(), torch.linalg.vector_norm(weight).item()
    ratio = update / size if size else math.inf
    if pristine.dtype != total.dtype and ratio < LOST_IN_HALF_PRECISION:
        reason = f"their sum is so small beside the weight that it would be lost in the rounding to {pristine.dtype}"
        return None, Folding(ratio, reason)
    return total.to(pristine.dtype), Folding(ratio)


def is_lost(folding: Folding | None, x: Tensor) -> bool:
    """Whether a folded update is too small for the half precision that autocast is going to round it to."""
    ratio = None if folding is None else folding.ratio
    return ratio is not None and ratio < LOST_IN_HALF_PRECISION and torch.is_autocast_enabled(x.device.type)


@final
class FoldedWeight(nn.Module):
    """The working copies of one site's weight, in the base's type; never saved.

    While a task is trained, there is one copy with the earlier tasks in it. Between tasks there is one with all tasks,
    for inference; it becomes the earlier tasks' copy as soon as the next slot opens.

    Attributes:
        folded: `W + s sum_{i<t} B_i A_i` [d_out, d_in], or None.
        folded_all: `W + s sum_{i<=t} B_i A_i` [d_out, d_in], or None.
        folding: Whether there is a copy, or why not; None where there is nothing to fold.
    """

    folded: Tensor | None
    folded_all: Tensor | None

    def __init__(self) -> None:
        """Begin without copies."""
        super().__init__()
        self.register_buffer("folded", None, persistent=False)
        self.register_buffer("folded_all", None, persistent=False)
        self.folding: Folding | None = None
        self._made_of: list[tuple[Tensor, int]] = []  # the parameters in ``folded_all``, as they were then

    def clear(self) -> None:
        """Forget both copies."""
        self.folded, self.folded_all, self.folding, self._made_of = None, None, None, []

    @torch.no_grad()
    def fold_past(self, site: Site, down: Tensor, up: Tensor, *, scale: float) -> None:
        """Form the earlier tasks' copy, if there are any.

        Args:
            site: The site whose weight it is a copy of.
            down: The earlier tasks' `A_i` [t-1, r, d_in].
            up: Their `B_i`, transposed [t-1, r, d_out].
            scale: `s`.
        """
        self.clear()
        if len(down):
            self.folded, self.folding = _formed(site, down, up, scale)

    @torch.no_grad()
    def fold_all(
        self, site: Site, down: Tensor, up: Tensor, *, scale: float, parameters: Iterable[nn.Parameter]
    ) -> None:
        """Form the copy of all tasks, once the newest is learned.

        Args:
            site: The site whose weight it is a copy of.
            down: All tasks' `A_i` [t, r, d_in].
            up: Their `B_i`, transposed [t, r, d_out].
            scale: `s`.
            parameters: The newest task's parameters, whose later changes make the copy invalid.
        """
        self.folded_all, self.folding = _formed(site, down, up, scale)
        self.folded = None
        self._made_of = [(parameter, parameter._version) for parameter in parameters]

    def push_to_past(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Let the copy of all tasks become that of the earlier ones.

        Args:
            parameters: The newest task's parameters.

        Returns:
            False if the copy is out of date, and nothing was done.
        """
        if not self._is_current(parameters):
            return False
        self.folded, self.folded_all, self._made_of = self.folded_all, None, []
        return True

    def past_for(self, x: Tensor) -> Tensor | None:
        """The earlier tasks' copy, if it may answer an input x."""
        return None if is_lost(self.folding, x) else self.folded

    def all_for(self, x: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor | None:
        """The copy of all tasks, if it may answer an input x and is up to date with the newest task's parameters."""
        if self.folded_all is None or not self._is_current(parameters) or is_lost(self.folding, x):
            return None
        return self.folded_all

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """While open, there are no copies; afterwards the same objects."""
        before = self.folded, self.folded_all
        self.folded, self.folded_all = None, None
        try:
            yield
        finally:
            self.folded, self.folded_all = before

    def _is_current(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether all tasks were folded, have not changed since, and none of them is being trained."""
        return bool(self._made_of) and all(
            parameter is then and parameter._version == version and not parameter.requires_grad
            for parameter, (then, version) in zip(parameters, self._made_of, strict=True)
        )


def _formed(site: Site, down: Tensor, up: Tensor, scale: float) -> tuple[Tensor | None, Folding]:
    if (obstacle := site.why_not_plain()) is not None:
        return None, Folding(None, obstacle)
    return folded(site.base_weight().detach(), down, up, scale=scale)
