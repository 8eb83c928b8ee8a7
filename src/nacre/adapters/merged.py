"""A copy of an adapted host without tasks, which can be trained further like any model."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nacre.adapters.prompt import PromptTable
from nacre.adapters.site import Site, take_away
from nacre.errors import ModelError


@torch.no_grad()
def merged_copy(model: nn.Module) -> nn.Module:
    """The model as it computes now, all of its parameters trainable, and nothing shared with the original.

    Summed updates are added to their weights, in the weights' precision, and their sites are gone. A gated mixture
    depends on the input, so that its sites stay: their newest tensors and the weights below are parameters, earlier
    tasks' tensors are not. Bottleneck adapters stay, too. Where the adapter follows a route of one row, and is
    `copied_by_task`, the copy answers all rows as that one.

    Args:
        model: The host, with or without sites.

    Raises:
        ModelError: A site's weight is not a table of numbers that can be trained, as in a quantized model, or soft
            prompts stand in front of the input.
    """
    for name, module in model.named_modules():
        if isinstance(module, PromptTable):
            raise ModelError(
                "A soft prompt cannot be merged: it stands in front of the input, and is not part of any weight."
            )
        if isinstance(module, Site) and (obstacle := module.why_not_plain()) is not None:
            raise ModelError(
                f"{name} cannot be merged and trained further: {obstacle}. Take the host whole and without "
                "quantization."
            )
    plain = copy.deepcopy(model)
    merged = {}
    for name, module in list(plain.named_modules()):
        if isinstance(module, Site):
            module.settle()
        if isinstance(module, Site) and (weight := module.effective_weight()) is not None:
            module.base_weight().copy_(weight)
            merged[name] = module
    take_away(plain, merged)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    return plain
