"""The host: a pretrained language model with its tokenizer, seen the same way for every family."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nacre.errors import ModelError
from nacre.models.classifier import Classifier
from nacre.models.encoder_only import ENCODERS, EncoderOnly, is_encoder
from nacre.models.families import Encoded, Family, Tokenizer
from nacre.models.generative import DecoderOnly, EncoderDecoder
from nacre.models.label_tree import Labels
from nacre.models.masked_lm import has_token_head, token_head_of


class Host:
    """model: a Hugging Face model with a generating head, or an encoder without pooler, bare or with its masked-LM
    head, on its device.
    name: what the user called it.

    ``model`` is what is run and learns; ``body`` is what was pretrained, and where adapters are placed. They differ in
    encoder-only hosts, where the model is a ``Classifier`` around the body.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, name: str = "", folder: Path | None = None) -> None:
        self.name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.folder = folder
        self.family = _family(model, tokenizer)
        self.model = self.family.model
        self.tokenizer = tokenizer

    @property
    def body(self) -> nn.Module:
        return self.model.encoder if isinstance(self.model, Classifier) else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Which weights these are: sha256 over the pretrained tensors' names and bytes as they are now."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.body.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def write(self, rows: Sequence[Encoded], max_new_tokens: int) -> list[str]:
        """Answers to the rows' inputs, one batch: greedy, at most ``max_new_tokens`` tokens each; of an encoder-only
        host, labels."""
        return self.family.answers(self._prompts(rows), max_new_tokens)

    @torch.inference_mode()
    def choose(self, rows: Sequence[Encoded], labels: Labels) -> list[int | None]:
        """The number of the most likely label for each row; None where the host knows none of them."""
        return self.family.choices(self._prompts(rows), labels)

    def _prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in self.family.prompts(rows).items()}


def _family(model: nn.Module, tokenizer: Tokenizer) -> Family:
    if isinstance(model, Classifier):
        return EncoderOnly(model, tokenizer)
    if is_encoder(model.config) and has_token_head(model):
        return EncoderOnly(Classifier(model.base_model, token_head_of(model, pretrained=True)), tokenizer)  # type: ignore[arg-type]
    if is_encoder(model.config) and getattr(model, "base_model", None) is model:
        if getattr(model, "pooler", None) is not None:
            raise ModelError(
                f"{type(model).__name__} has a pooler, which nacre does not use and full fine-tuning could not train: "
                "load it with AutoModel.from_pretrained(..., add_pooling_layer=False)."
            )
        return EncoderOnly(Classifier(model), tokenizer)
    if not hasattr(model, "generate") or not getattr(model, "can_generate", lambda: False)():
        raise ModelError(
            f"{type(model).__name__} cannot write text: nacre needs an encoder-decoder or a decoder-only model with "
            f"its language-model head, or an encoder ({', '.join(ENCODERS)}), bare or with its masked-LM head."
        )
    encoder_decoder = bool(model.config.is_encoder_decoder)  # type: ignore[union-attr]
    return EncoderDecoder(model, tokenizer) if encoder_decoder else DecoderOnly(model, tokenizer)
