"""The stack of a model that reads the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from nacre.errors import ModelError, RecipeError
from nacre.models.architectures import config_of


def reader_of(body: nn.Module) -> nn.Module:
    """The encoder of an encoder-decoder model; of every other model, the stack below its heads."""
    model: Any = body
    reader: nn.Module = model.get_encoder() if config_of(model).is_encoder_decoder else model.base_model
    return reader


@contextmanager
def shortened(reader: nn.Module, layer: int) -> Iterator[None]:
    """While open, the stack ends behind one of its blocks: its final norm, if it has one, reads that block's output.

    Args:
        reader: The stack.
        layer: As Hugging Face counts `hidden_states`: 1 keeps the first block alone, -1 all of them.

    Raises:
        ModelError: If the blocks are not found.
        RecipeError: If there is no such block.
    """
    count = int(config_of(reader).num_hidden_layers)
    lists = {name: module for name, module in reader.named_modules() if isinstance(module, nn.ModuleList)}
    name = next((name for name, module in lists.items() if len(module) == count), None)  # outer ones come first
    if name is None:
        raise ModelError(f"The {count} blocks of architecture '{config_of(reader).model_type}' were not found.")
    blocks, kept = lists[name], layer if layer >= 0 else count + 1 + layer
    if not 1 <= kept <= count:
        raise RecipeError(f"layer: {layer} is not a block of this model, which has {count}.")
    parent, _, child = name.rpartition(".")
    holder = reader.get_submodule(parent)
    setattr(holder, child, blocks[:kept])
    try:
        yield
    finally:
        setattr(holder, child, blocks)
