"""Random Fourier features of a Gaussian kernel, for Gaussians in the kernel's space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nacre.functional.random_features import fourier_features, median_gamma, phases, standard_normal
from nacre.parts.part import LearnerView
from nacre.seeds import derive
from nacre.settings import check_positive

LOOKED_AT = 1000
"""So many of the first task's rows, evenly spread over them, tell the median distance."""


@dataclass(frozen=True)
class FourierKernel:
    """phi(z), whose products are about exp(-gamma ||x - y||^2).

    Attributes:
        dimension: D.
        gamma: The kernel's; or 'median', 1 / (2 median^2) of the distances between the first task's rows.
    """

    dimension: int
    gamma: float | Literal["median"] = "median"

    def __post_init__(self) -> None:
        check_positive("dimension", self.dimension)
        if self.gamma != "median":
            check_positive("gamma", self.gamma)

    def gamma_of(self, states: Tensor) -> float:
        """The kernel's gamma, by the first task's states [n, d]; it is kept from then on."""
        if self.gamma != "median":
            return self.gamma
        step = -(-len(states) // LOOKED_AT)
        return median_gamma(states[::step])

    def expanded(self, learner: LearnerView, states: Tensor, gamma: float) -> Tensor:
        """phi [B, D] of states [B, d]. What is drawn depends on the learner's seed alone, and is drawn once."""
        name = f"fourier kernel {states.shape[1]}"
        if name not in learner.cache:
            seed = derive(learner.state.seed, "fourier_kernel")
            drawn = (
                standard_normal(states.shape[1], self.dimension, seed),
                phases(self.dimension, derive(seed, "phases")),
            )
            learner.cache[name] = tuple(tensor.to(states.device) for tensor in drawn)
        normals, offsets = learner.cache[name]
        assert isinstance(normals, torch.Tensor)
        return fourier_features(states, normals, offsets, gamma)
