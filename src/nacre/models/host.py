"""The host: a pretrained language model with its tokenizer, seen the same way for every family."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from nacre.errors import ModelError
from nacre.models.families import DecoderOnly, Encoded, EncoderDecoder, Family, Tokenizer


class Host:
    """model: a Hugging Face model with a generating head, on its device. name: what the user called it."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, name: str = "", folder: Path | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.folder = folder
        self.family = _family(model, tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Which weights these are: sha256 over the tensors' names and bytes as they are now."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def write(self, rows: Sequence[Encoded], max_new_tokens: int) -> list[str]:
        """Greedy answers to the rows' inputs, one batch. At most ``max_new_tokens`` tokens each."""
        prompts = {name: tensor.to(self.device) for name, tensor in self.family.prompts(rows).items()}
        generated = self.model.generate(  # type: ignore[operator]
            **prompts, generation_config=self._greedy(max_new_tokens)
        )
        return [self.family.text(ids) for ids in self.family.written(generated, prompts["input_ids"])]

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        # Built anew: a host's own generation settings may sample, search beams or forbid repetition.
        own: Any = self.model.generation_config
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.family.pad,
            eos_token_id=sorted({self.family.end, *(end for end in ends if end is not None)}),
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )


def _family(model: nn.Module, tokenizer: Tokenizer) -> Family:
    if not hasattr(model, "generate") or not getattr(model, "can_generate", lambda: False)():
        raise ModelError(
            f"{type(model).__name__} cannot write text: nacre needs an encoder-decoder or a decoder-only model with "
            "its language-model head."
        )
    encoder_decoder = bool(model.config.is_encoder_decoder)  # type: ignore[union-attr]
    return EncoderDecoder(model, tokenizer) if encoder_decoder else DecoderOnly(model, tokenizer)
