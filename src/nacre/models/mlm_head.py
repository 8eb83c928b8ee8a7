"""An encoder's masked-LM head: the layers that predict hidden tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM

from nacre.seeds import derive


class MlmHead(nn.Module):
    """An encoder's own masked-LM head: hidden states [N, d] -> logits over the vocabulary [N, V].

    Where the output layer is tied to the encoder's embeddings it is the encoder's; everything else is the head's own
    and is learned with every text.

    Attributes:
        body: The pretrained head (BERT: dense, GELU, norm, then the embeddings as output layer).
        pretrained: Whether it came with the model; otherwise it was drawn, the same for every seed.
        learned: Whether it has ever been trained, or loaded.
    """

    def __init__(self, body: nn.Module, encoder: nn.Module, *, pretrained: bool) -> None:
        super().__init__()
        self.body = body
        self.pretrained = pretrained
        shared = {id(parameter) for parameter in encoder.parameters()}
        self._own = {name: p for name, p in body.named_parameters() if id(p) not in shared}
        self._trained_before = {name: p.requires_grad for name, p in self._own.items()}
        self._pristine = {name: p.detach().to("cpu", copy=True) for name, p in self._own.items()}
        self.learned = False

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, d]."""
        logits: Tensor = self.body(hidden)
        return logits

    def own(self) -> tuple[nn.Parameter, ...]:
        """The parameters that are the head's own, not the encoder's."""
        return tuple(self._own.values())

    def open(self) -> None:
        """Make the head's own parameters trainable."""
        self.learned = True
        for parameter in self._own.values():
            parameter.requires_grad_(True)

    def tensors(self) -> dict[str, Tensor]:
        """What it has learned, by name; nothing before it has learned anything."""
        return {name: parameter.detach() for name, parameter in self._own.items()} if self.learned else {}

    @property
    def fingerprint(self) -> str:
        """sha256 of the head as it was given."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._pristine.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave, bit for bit; from nothing, be as it was given. Nothing is trainable then."""
        self.learned = bool(tensors)
        for name, parameter in self._own.items():
            parameter.copy_(tensors[name] if tensors else self._pristine[name])
            parameter.requires_grad_(False)

    def restore(self) -> None:
        """Be as it was given, bit for bit, every `requires_grad` included."""
        self.load({})
        for name, parameter in self._own.items():
            parameter.requires_grad_(self._trained_before[name])


def has_mlm_head(model: nn.Module) -> bool:
    """Whether this is one of transformers' encoders with its masked-LM head."""
    return type(model) in MODEL_FOR_MASKED_LM_MAPPING.values()


def mlm_head_of(model: Any, *, pretrained: bool) -> MlmHead:
    """The head of a masked-LM model of transformers."""
    (head,) = [module for name, module in model.named_children() if name != model.base_model_prefix]
    return MlmHead(head, model.base_model, pretrained=pretrained)


def own_parameters(model: Any) -> set[str]:
    """Names of a masked-LM model's parameters that are its head's own; a tied output layer is the encoder's."""
    return {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def new_mlm_head(encoder: Any) -> MlmHead:
    """A head for an encoder that came without one, drawn as transformers draws it, the same every time."""
    with torch.device("meta"):  # of the whole model only the head is wanted
        model = AutoModelForMaskedLM.from_config(encoder.config)
    setattr(model, model.base_model_prefix, encoder)
    (head,) = [module for name, module in model.named_children() if name != model.base_model_prefix]
    head.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "masked-LM head"))
        for module in head.modules():
            model._init_weights(module)
    like = next(encoder.parameters())
    head.to(device=like.device, dtype=like.dtype)
    model.tie_weights()
    drawn = MlmHead(head, encoder, pretrained=False)
    for parameter in drawn.own():
        parameter.requires_grad_(False)
    return drawn
