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
    """Whose tokens a linear map reads.

    In an encoder-decoder model, maps in the decoder read the decoder's tokens, except for keys and values of its
    attention to the encoder.

    Args:
        model: The host.
        name: Dotted name of the map.

    Raises:
        ModelError: An encoder-decoder architecture has no row in `models/architectures`.
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
    """All arguments of a call by name, those given by position too.

    Args:
        model: The model that is called.
        args: Arguments by position.
        kwargs: Arguments by name.
    """
    if not args:
        return dict(kwargs)
    # Of the class: libraries that train replace the instance's forward by one that takes anything.
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def token_masks(model: nn.Module, arguments: Mapping[str, Any]) -> dict[TokenStream, Tensor | None]:
    """Which tokens of a call are not padding.

    The input's tokens follow from `attention_mask`; without one, nothing is padding. The decoder's follow from
    `decoder_attention_mask`, else from `labels` (`IGNORED` after the target), else from `decoder_input_ids`: there the
    start token counts, and neither padding nor an end token, which is read only because another row of the batch is
    longer.

    Args:
        model: The host.
        arguments: Of the call, by name.

    Returns:
        For each stream [B, S], True where a token counts; None where all do.

    Raises:
        TrainingError: The arguments do not show which tokens are padding.
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
            f"{name} is not a [batch, tokens] mask, so it does not show what is padding: count all tokens (tokens=all)."
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
            "Which of the decoder's tokens are padding is unknown: give the model labels, decoder_input_ids or "
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
