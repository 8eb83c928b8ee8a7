"""Masked language modelling: texts with hidden tokens, and the head that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM

from nacre.errors import DataError
from nacre.functional.token_masks import corrupted, hidden_places
from nacre.models.families import Encoded, Tokenizer
from nacre.seeds import derive

RATE = 0.15


@dataclass(frozen=True)
class Masking:
    """mask: the mask token; vocabulary: how many tokens there are to draw from; special: tokens never hidden. rate: the
    share of the others that is."""

    mask: int
    vocabulary: int
    special: frozenset[int]
    rate: float = RATE

    def draw(self, ids: Sequence[int], seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A text with some tokens hidden, and where they are; a function of the text and the seed.

        Drawn on the CPU, so that it is the same on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.tensor(ids)
        maskable = torch.tensor([token not in self.special for token in ids])
        places = hidden_places(maskable, torch.rand(len(ids), generator=generator), self.rate)
        fills = torch.rand(len(places), generator=generator)
        other = torch.randint(self.vocabulary, (len(places),), generator=generator)
        return tuple(corrupted(tokens, places, fills, other, self.mask).tolist()), tuple(places.tolist())


def masking_of(tokenizer: Tokenizer) -> Masking:
    """As the tokenizer's special tokens say; ``DataError`` if none of them is a mask."""
    if tokenizer.mask_token_id is None:
        raise DataError(
            "The tokenizer has no mask token, so that no text can be learnt by it: set tokenizer.mask_token."
        )
    return Masking(int(tokenizer.mask_token_id), len(tokenizer), frozenset(tokenizer.all_special_ids))


@dataclass(frozen=True)
class MaskedText(Encoded):
    """A chunk of text. source: its tokens with some of them hidden; target: the hidden ones; places: where they are.

    ids: the text itself, from which other tokens are hidden in every epoch (dynamic masking, as in RoBERTa).
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    masking: Masking

    @classmethod
    def of(cls, ids: tuple[int, ...], masking: Masking) -> MaskedText:
        """The text with its first masks, which depend on the text alone."""
        digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
        return cls((), (), False, ids, (), masking).drawn(0, "text", digest)

    def drawn(self, seed: int, *where: str | int) -> MaskedText:
        source, places = self.masking.draw(self.ids, derive(seed, "masks", *where))
        return replace(self, source=source, target=tuple(self.ids[place] for place in places), places=places)


class TokenHead(nn.Module):
    """An encoder's own masked-LM head: hidden states [N, d] -> logits over the vocabulary [N, V].

    body: the pretrained head (BERT: dense, GELU, norm, then the embeddings as output layer). Where the output layer is
    tied to the encoder's embeddings it is the encoder's; all else is the head's own and learnt with every text.
    pretrained: whether it came with the model; otherwise it was drawn, the same for every seed.
    """

    def __init__(self, body: nn.Module, encoder: nn.Module, *, pretrained: bool) -> None:
        super().__init__()
        self.body = body
        self.pretrained = pretrained
        shared = {id(parameter) for parameter in encoder.parameters()}
        self._own = {name: p for name, p in body.named_parameters() if id(p) not in shared}
        self._pristine = {name: p.detach().to("cpu", copy=True) for name, p in self._own.items()}
        self.moved = False  # whether it has ever been learnt, or loaded
        for parameter in self._own.values():
            parameter.requires_grad_(False)

    def forward(self, hidden: Tensor) -> Tensor:  # [N, d] -> [N, V]
        logits: Tensor = self.body(hidden)
        return logits

    def own(self) -> tuple[nn.Parameter, ...]:
        return tuple(self._own.values())

    def tensors(self) -> dict[str, Tensor]:
        """What it has learnt, by name; nothing before it has learnt anything."""
        return {name: parameter.detach() for name, parameter in self._own.items()} if self.moved else {}

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
        """Take over what ``tensors`` gave, bit for bit; from nothing, be as it was given. Nothing is trainable then."""
        self.moved = bool(tensors)
        for name, parameter in self._own.items():
            parameter.copy_(tensors[name] if tensors else self._pristine[name])
            parameter.requires_grad_(False)


def has_token_head(model: nn.Module) -> bool:
    """Whether this is one of transformers' encoders with its masked-LM head."""
    return type(model) in MODEL_FOR_MASKED_LM_MAPPING.values()


def token_head_of(model: Any, *, pretrained: bool) -> TokenHead:
    """The head of a masked-LM model of transformers."""
    (head,) = [module for name, module in model.named_children() if name != model.base_model_prefix]
    return TokenHead(head, model.base_model, pretrained=pretrained)


def missing_head(model: Any, missing: Iterable[str]) -> bool:
    """Whether the folder of a masked-LM model had none of its head, or not all. missing: names of its tensors that were
    not there; output layers tied to something are always among the others."""
    own = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    return not own.isdisjoint(missing)


def new_token_head(encoder: Any) -> TokenHead:
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
    return TokenHead(head, encoder, pretrained=False)
