"""Seeded sampling: what a row writes depends on its own seed, not on the rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from transformers import LogitsProcessor

from nacre.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_new_tokens: At most so many tokens an answer.
        top_k: Among so many most likely tokens; None: among all.
        temperature: The logits are divided by it.
    """

    max_new_tokens: int
    top_k: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens: {self.max_new_tokens} is not a positive number of tokens.")
        if self.top_k is not None and self.top_k < 1:
            raise ModelError(f"top_k: {self.top_k} is not a positive number of tokens; None draws among all.")
        if not self.temperature > 0:
            raise ModelError(f"temperature: {self.temperature} is not above 0; greedy answers need no sampling.")


@final
class SeededDraws(LogitsProcessor):  # type: ignore[misc]
    """Makes greedy decoding sample: to the logits it adds noise whose largest sum is a draw from their softmax.

        argmax_v (z_v / T - log(-log(u_v))) ~ softmax(z / T),  u_v uniform in (0, 1)

    (Gumbel-max), over the `top_k` largest z alone. Each row has a generator of its own, on the CPU, so that its draws
    are the same on every device, in every batch and whatever was drawn before.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        """One seed a row."""
        self.sampling = sampling
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Perturbed logits [B, V] of logits [B, V]."""
        z = scores.to(torch.promote_types(scores.dtype, torch.float32)) / self.sampling.temperature
        if self.sampling.top_k is not None and self.sampling.top_k < z.shape[-1]:
            z = z.masked_fill(z < z.topk(self.sampling.top_k).values[:, -1:], -torch.inf)
        u = torch.stack(
            [torch.rand(z.shape[-1], dtype=torch.float64, generator=generator) for generator in self.generators]
        )
        noise = -(-u.clamp(min=torch.finfo(u.dtype).tiny).log()).log()
        return z + noise.to(z)
