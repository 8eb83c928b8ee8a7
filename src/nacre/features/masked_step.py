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
from nacre.models.sharding import own_part, rows_of

Masked = Literal["gradient", "update"]


class MaskedStep:
    """Masks the gradients before the optimizer's step and, with `update`, restores masked features after it.

    Attributes:
        masks: Of the newest step, by the map's name, [features]; True where a feature is updated.
    """

    def __init__(self, maps: Sequence[FeatureMap], masked: Masked) -> None:
        """Nothing is masked yet.

        Args:
            maps: The linear maps.
            masked: `gradient`: masked features have the gradient 0, but an optimizer with momentum or weight decay
                still moves them. `update`: they do not move (MIGU Eq. 6), and the optimizer's running means are those
                of the masked gradient; full copies of the masked parameters are kept during the step.
        """
        self.maps = maps
        self.masked = masked
        self.masks: dict[str, Tensor] = {}
        self.held: list[tuple[nn.Parameter, int, Tensor, Tensor]] = []

    @torch.no_grad()
    def before(
        self, masks: Sequence[Tensor], is_masked: Callable[[nn.Parameter], bool] = lambda parameter: False
    ) -> None:
        """Mask the gradients: to be called between the backward pass and the optimizer's step.

        Args:
            masks: One for each map, on its parameters' device, [features].
            is_masked: Whether a parameter's gradient is 0 already where the mask is False.
        """
        self.masks = {each.name: mask for each, mask in zip(self.maps, masks, strict=True)}
        self.held = []
        for feature_map, mask in zip(self.maps, masks, strict=True):
            for parameter, axis in feature_map.parameters:
                if parameter.grad is None:
                    continue  # the optimizer will not touch it
                rows = rows_of(mask, parameter) if axis == 0 else mask  # sharded parameters are cut along axis 0
                if not is_masked(parameter):
                    zero_masked_(own_part(parameter.grad), rows, axis)
                if self.masked == "update":
                    self.held.append((parameter, axis, rows, own_part(parameter.detach()).clone()))

    @torch.no_grad()
    def after(self) -> None:
        """Restore masked features: to be called after the optimizer's step."""
        for parameter, axis, mask, before in self.held:
            restore_masked_(own_part(parameter), before, mask, axis)
        self.held = []


def with_roles(maps: Sequence[FeatureMap], components: Sequence[Role]) -> list[FeatureMap]:
    """The maps with one of the roles.

    Args:
        maps: The trained linear maps.
        components: Roles; with all of them, every map is taken, also one whose role is unknown.

    Raises:
        RecipeError: No map has one of the roles.
    """
    chosen = [each for each in maps if set(components) >= set(ROLES) or set(each.roles) & set(components)]
    if not chosen:
        raise RecipeError(
            f"components: no trained linear map is {', '.join(components) or 'nothing'}; here are "
            f"{', '.join(sorted({role for each in maps for role in each.roles})) or 'none whose role is known'}."
        )
    return chosen


def check_threshold(threshold: float) -> None:
    """Refuse a share of untrained features that is out of range.

    Args:
        threshold: The share.

    Raises:
        RecipeError: It is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise RecipeError(
            f"threshold: {threshold} is not in [0, 1). It is the share of each linear map's output features that are "
            "left out of a step; 0.7 updates the largest 30 %."
        )
