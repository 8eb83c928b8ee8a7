"""The stack of a model that reads the input."""

from __future__ import annotations

from typing import Any

from torch import nn

from nacre.models.architectures import config_of


def reader_of(body: nn.Module) -> nn.Module:
    """The encoder of an encoder-decoder model; of every other model, the stack below its heads."""
    model: Any = body
    reader: nn.Module = model.get_encoder() if config_of(model).is_encoder_decoder else model.base_model
    return reader
