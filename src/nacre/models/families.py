"""How text becomes tensors and tensors become a loss or an answer, for each family of language models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nacre.errors import DataError
from nacre.functional.losses import IGNORED, token_loss_sum
from nacre.tasks.template import Example

Tokenizer = Any  # transformers' tokenizers share no typed base that a checker could use


@dataclass(frozen=True)
class Lengths:
    """How many tokens an input and a target may have. The papers' pipeline: 512 and 50."""

    source: int = 512
    target: int = 50


@dataclass(frozen=True)
class Encoded:
    """One example as token ids: what is read, what is to be written (with its end token), whether text was cut."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    truncated: bool

    def length(self) -> int:
        return len(self.source) + len(self.target)


class Family(ABC):
    """Encoder-decoder or decoder-only. Holds the tokenizer and the ids; the model is passed in, because a
    distributed run wraps it."""

    name: ClassVar[str]
    padding_side: ClassVar[str]

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end = _end_token(model, tokenizer)
        # Padding is always masked out, so that a tokenizer without a padding token can lend its end token.
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end

    @abstractmethod
    def source_ids(self, text: str) -> list[int]:
        """Token ids of an input text, special tokens included."""

    @abstractmethod
    def target_ids(self, example: Example) -> list[int]:
        """Token ids of the target, without an end token."""

    @abstractmethod
    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Tensors for training: ``input_ids``, ``attention_mask`` [B, S], ``labels`` with ``IGNORED`` elsewhere."""

    @abstractmethod
    def loss_sum(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Sum of the loss over the target tokens of a batch. Returns []."""

    @abstractmethod
    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        """The newly written ids of ``generate``'s output."""

    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of an example. Only the text is cut, from the right: instruction, options and the answer cue
        survive (the released pipelines cut the cue away; docs/fidelity.md, P4)."""
        source, truncated = self._fit(example, self.source_limit(lengths))
        return Encoded(tuple(source), self.encode_target(example, lengths), truncated)

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        """Token ids of an example's target with its end token, at most ``lengths.target``."""
        target = self.target_ids(example)
        if not target or target[-1] != self.end:
            target = [*target, self.end]
        return tuple(target[: lengths.target])

    def source_limit(self, lengths: Lengths) -> int:
        """How many tokens an input may have in this host: the asked-for length, or what its positions leave."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return min(lengths.source, positions - self.reserved(lengths)) if positions else lengths.source

    def reserved(self, lengths: Lengths) -> int:
        """Positions that the target takes from the input's: none where the decoder has its own."""
        return 0

    def prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Tensors for generation: ``input_ids``, ``attention_mask`` [B, S]."""
        ids = self._padded([row.source for row in rows], self.pad, self.padding_side)
        mask = self._padded([[1] * len(row.source) for row in rows], 0, self.padding_side)
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, ids: Sequence[int] | Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()  # type: ignore[no-any-return]

    def _fit(self, example: Example, limit: int) -> tuple[list[int], bool]:
        ids = self.source_ids(example.input)
        text = example.text
        while len(ids) > limit:
            # Drop as many of the text's tokens as there are too many. Tokens at the seams may merge differently
            # afterwards, hence the loop; several tokens may share one character, so each round drops at least one.
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            keep = len(offsets) - (len(ids) - limit)
            if keep <= 0:
                raise DataError(
                    f"The instruction, options and answer cue alone fill the {limit} tokens an input may have "
                    f"(prompt begins '{' '.join(example.before.split())[:60]}'): raise max_source_length, or lower "
                    "max_target_length where the model's positions hold both."
                )
            text = text[: min(offsets[keep - 1][1], len(text) - 1)]
            ids = self.source_ids(example.before + text + example.after)
        return ids, text is not example.text

    @staticmethod
    def _padded(rows: Sequence[Sequence[int]], fill: int, side: str = "right") -> Tensor:
        width = max(len(row) for row in rows)
        if side == "left":
            return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])
        return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])


class EncoderDecoder(Family):
    """T5, BART and their kin: the encoder reads the input, the decoder writes the target."""

    name = "encoder-decoder"
    padding_side = "right"

    def source_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def target_ids(self, example: Example) -> list[int]:
        return list(self.tokenizer(text_target=example.target)["input_ids"])

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        labels = self._padded([row.target for row in rows], IGNORED)
        # The decoder reads the target one step late, behind its start token; the model knows how (T5 and BART differ).
        shifted = self.model.prepare_decoder_input_ids_from_labels(labels=labels)  # type: ignore[operator]
        return {**self.prompts(rows), "decoder_input_ids": shifted, "labels": labels}

    def loss_sum(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return token_loss_sum(model(**inputs, use_cache=False).logits, batch["labels"])

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        return generated


class DecoderOnly(Family):
    """Llama, GPT-2 and their kin: the target continues the input, and only it is learnt."""

    name = "decoder-only"
    padding_side = "left"

    def source_ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text)["input_ids"])
        # Some tokenizers close every text with an end token; a prompt must stay open.
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.end else ids

    def target_ids(self, example: Example) -> list[int]:
        # Tokenized behind the cue, so that the answer's first token is the one that a text would have there.
        cue = example.after or example.text
        prompt, whole = self.source_ids(cue), self.source_ids(f"{cue} {example.target}")
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        return list(self.tokenizer(f" {example.target}", add_special_tokens=False)["input_ids"])

    def reserved(self, lengths: Lengths) -> int:
        return lengths.target

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        whole = [row.source + row.target for row in rows]
        return {
            "input_ids": self._padded(whole, self.pad),
            "attention_mask": self._padded([[1] * len(ids) for ids in whole], 0),
            "labels": self._padded([[IGNORED] * len(row.source) + list(row.target) for row in rows], IGNORED),
        }

    def loss_sum(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return token_loss_sum(output.logits[:, :-1], batch["labels"][:, 1:])

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        return generated[:, prompts.shape[1] :]


def _end_token(model: nn.Module, tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    end = model.config.eos_token_id  # type: ignore[union-attr]
    if isinstance(end, int):
        return end
    raise DataError(
        "The tokenizer has no end-of-sequence token, so an answer could never end: set tokenizer.eos_token."
    )
