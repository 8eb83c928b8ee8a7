"""Which tokens a module of a host reads, those of the input or those of the decoder, and which of them are padding."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nacre.errors import ModelError, TrainingError
from nacre.functional.losses import IGNORED
from nacre.models.architectures import architecture_of, config_of

TokenStream = Literal["input", "decoder"]


def stream_of(model: nn.Module, name: str) -> TokenStream:
    """The tokens that the linear map of this dotted name reads. In an encoder-decoder model these are the decoder's in
    the decoder, except for keys and values of its attention to the encoder.

    Raises ``ModelError`` for an encoder-decoder architecture that has no row in ``models/architectures``.
    """
    config = config_of(model)
    if not config.is_encoder_decoder:
        return "input"
    architecture = architecture_of(config)
    if architecture is None:
        raise ModelError(
            f"Which modules of architecture '{config.model_type}' read the encoder's tokens is not known, so that "
            "padding cannot be left out: count all tokens (tokens=all)."
        )
    if not architecture.is_in_decoder(name):
        return "input"
    reads_encoder = any(row.cross and {"key", "value"} & {*row.roles} for row in architecture.roles if row.holds(name))
    return "input" if reads_encoder else "decoder"


def arguments_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call of the model was given, by name, also what was given by position."""
    if not args:
        return dict(kwargs)
    # Of the class: libraries that train replace the instance's forward by one that takes anything.
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def token_masks(model: nn.Module, arguments: Mapping[str, Any]) -> dict[TokenStream, Tensor | None]:
    """Which tokens of a call are real: per stream [B, S], True where a token counts, or None where all do.

    input: by ``attention_mask``; without one, nothing is padding. decoder: by ``decoder_attention_mask``, else by
    ``labels`` (``IGNORED`` behind the target), else by ``decoder_input_ids``: there the start token counts, and neither
    padding nor an end token, which is read only because another row of the batch is longer.
    """
    masks: dict[TokenStream, Tensor | None] = {"input": _mask(arguments, "attention_mask")}
    if config_of(model).is_encoder_decoder:
        masks["decoder"] = _decoder_mask(model, arguments)
    return masks


def _mask(arguments: Mapping[str, Any], name: str) -> Tensor | None:
    mask = arguments.get(name)
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise TrainingError(
            f"{name} is no [batch, tokens] mask, so that padding cannot be told from it: count all tokens (tokens=all)."
        )
    return mask != 0


def _decoder_mask(model: nn.Module, arguments: Mapping[str, Any]) -> Tensor | None:
    if arguments.get("decoder_attention_mask") is not None:
        return _mask(arguments, "decoder_attention_mask")
    if arguments.get("labels") is not None:
        return arguments["labels"] != IGNORED  # type: ignore[no-any-return]
    ids = arguments.get("decoder_input_ids")
    if ids is None:
        raise TrainingError(
            "Which of the decoder's tokens are padding cannot be told: give the model labels, decoder_input_ids or "
            "decoder_attention_mask, or count all tokens (tokens=all)."
        )
    config = config_of(model)
    ends = config.eos_token_id
    mask = torch.ones_like(ids, dtype=torch.bool)
    for token in (config.pad_token_id, *(ends if isinstance(ends, list) else [ends])):
        if token is not None:
            mask &= ids != token
    mask[:, 0] = True
    return mask
