"""Latent-LoRA's pull of a new task's update away from those of earlier tasks, measured between singular vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.latent import Latent, PlacedLatent
from nacre.functional.latent import squared_cosines
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative


@dataclass(frozen=True)
class LatentOrthogonality(Penalty):
    """The squared cosines of the newest update with each earlier one, summed over these, the mean over sites.

    Attributes:
        strength: lambda.
    """

    strength: PerTask = 0.02

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of latent_orthogonality")

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, Latent):
            return None
        return "it compares matrices between singular vectors, which latent_lora has"

    def value(self, learner: LearnerView) -> Tensor:
        assert isinstance(learner.adapter, PlacedLatent)
        cores = torch.stack([site.cores() for site in learner.adapter.sites.values()])
        sizes = torch.stack([site.sizes for site in learner.adapter.sites.values()])
        return squared_cosines(cores[:, -1], cores[:, :-1], sizes).sum(1).mean()
