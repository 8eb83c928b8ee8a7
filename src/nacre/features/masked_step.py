"""One optimizer step in which features of linear maps are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap
from nacre.errors import RecipeError
from nacre.functional.masking import restore_masked_, zero_masked_
from nacre.models.roles import ROLES, Role

Masked = Literal["gradient", "update"]


class MaskedStep:
    """Masks the gradients before the step and, with ``update``, puts masked features back after it.

    masked: ``gradient``: masked features have the gradient 0, but an optimizer with momentum or weight decay moves them
    all the same; ``update``: they do not move (MIGU Eq. 6), and the optimizer's running means are those of the masked
    gradient. Full copies of the masked parameters are kept during the step.

    masks: of the newest step, by the map's name, [features], True where a feature is updated.
    """

    def __init__(self, maps: Sequence[FeatureMap], masked: Masked) -> None:
        self.maps = maps
        self.masked = masked
        self.masks: dict[str, Tensor] = {}
        self.held: list[tuple[nn.Parameter, int, Tensor, Tensor]] = []

    @torch.no_grad()
    def before(
        self, masks: Sequence[Tensor], is_masked: Callable[[nn.Parameter], bool] = lambda parameter: False
    ) -> None:
        """Between the backward pass and the optimizer's step. masks: one a map, on its parameters' device. is_masked:
        whether a parameter's gradient is 0 already where the mask is False."""
        self.masks = {found.name: mask for found, mask in zip(self.maps, masks, strict=True)}
        self.held = []
        for found, mask in zip(self.maps, masks, strict=True):
            for parameter, axis in found.parameters:
                if parameter.grad is None:
                    continue  # the optimizer will not touch it
                if not is_masked(parameter):
                    zero_masked_(parameter.grad, mask, axis)
                if self.masked == "update":
                    self.held.append((parameter, axis, mask, parameter.detach().clone()))

    @torch.no_grad()
    def after(self) -> None:
        """After the optimizer's step."""
        for parameter, axis, mask, before in self.held:
            restore_masked_(parameter, before, mask, axis)
        self.held = []


def with_roles(maps: Sequence[FeatureMap], components: Sequence[Role]) -> list[FeatureMap]:
    """The maps with one of the roles; with all roles, every map, also one whose role is unknown.

    Raises ``RecipeError`` if there is none.
    """
    found = [one for one in maps if set(components) >= set(ROLES) or set(one.roles) & set(components)]
    if not found:
        raise RecipeError(
            f"components: no trained linear map is {', '.join(components) or 'nothing'}; here are "
            f"{', '.join(sorted({role for one in maps for role in one.roles})) or 'none whose role is known'}."
        )
    return found


def check_threshold(threshold: float) -> None:
    """Raise ``RecipeError`` if this is no share of features that may stay untrained."""
    if not 0 <= threshold < 1:
        raise RecipeError(
            f"threshold: {threshold} is not in [0, 1). It is the share of each linear map's output features that are "
            "left out of a step; 0.7 updates the largest 30 %."
        )
