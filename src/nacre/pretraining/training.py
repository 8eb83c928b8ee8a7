"""The training loop of a pretraining, and the held-out loss."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nacre.functional.losses import IGNORED
from nacre.pretraining.batches import WindowBatches
from nacre.pretraining.settings import PretrainSettings
from nacre.pretraining.windows import TokenWindow
from nacre.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int, float | None], None]
"""Called with steps done, steps in all, and the training loss where it was read (every 50 steps and at the last)."""


def train(
    model: PreTrainedModel, batches: WindowBatches, windows: Sequence[TokenWindow], progress: Progress | None
) -> None:
    """Take `settings.steps` steps of AdamW on windows drawn at random; every step has its own random generator.

    Args:
        model: Is trained in place.
        batches: Make the tensors, and hold the settings.
        windows: To draw from.
        progress: Called after every step, or None.
    """
    settings = batches.settings
    optimizer = torch.optim.AdamW(_groups(model, settings.learning_rate), betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    model.train()
    for step in range(settings.steps):
        rng = random.Random(derive(settings.seed, "pretrain", "batch", step))
        batch = batches.make(rng.choices(windows, k=settings.batch_size), rng)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress:
            read = (step + 1) % 50 == 0 or step + 1 == settings.steps
            progress(step + 1, settings.steps, float(loss.detach()) if read else None)
    model.train(False)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: WindowBatches, windows: Sequence[TokenWindow]) -> float:
    """Mean loss per target token in nats, with the same masks in every call.

    Args:
        model: Is left in evaluation mode.
        batches: Make the tensors.
        windows: To measure on.
    """
    rng = random.Random(derive(batches.settings.seed, "pretrain", "held-out masks"))
    model.train(False)
    total, tokens = 0.0, 0
    for start in range(0, len(windows), 32):
        batch = batches.make(windows[start : start + 32], rng)
        # A causal model shifts its labels: the first is not a target.
        counted = batch["labels"][:, 1:] if batches.settings.objective == "causal" else batch["labels"]
        count = int((counted != IGNORED).sum())
        total += float(model(**batch).loss) * count
        tokens += count
    return total / tokens


def _groups(model: PreTrainedModel, relative_rate: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate follows the size of their values, to the nearest power of two.

    T5 draws its embeddings with standard deviation 1 and its maps with about 0.05. Adam's steps have the size of
    the rate, whatever the gradient: one rate for all either leaves the embeddings where they are for thousands of
    steps or shatters the maps. Adafactor's relative steps (arXiv 1804.04235, section 8) are the same remedy.
    """
    groups: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        size = max(parameter.detach().square().mean().sqrt().item(), 1e-3)
        groups[2.0 ** round(math.log2(size))].append(parameter)
    return [{"params": group, "lr": relative_rate * size} for size, group in sorted(groups.items())]


def _rate(step: int, settings: PretrainSettings) -> float:
    """The share of the peak rate at a step: linear warm-up, then a cosine to zero."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, settings.steps - warm)))
