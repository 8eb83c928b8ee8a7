"""Hosts that write their answers: encoder-decoder and decoder-only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig

from nacre.errors import DataError
from nacre.functional.losses import IGNORED
from nacre.models.families import Encoded, Family, Lengths, Tokenizer
from nacre.tasks.task import Task
from nacre.tasks.template import Example


class Writing(Family):
    """Families whose answers are written, greedily, token after token. They can learn every task, and learn nothing
    themselves: all that is trained is the adapter's."""

    decoding = "free, greedy"
    writes = True

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        self.end = _end_token(model, tokenizer)

    @property
    def pad(self) -> int:
        # Padding is always masked out, so that a tokenizer without a padding token can lend its end token.
        return self.end if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    @abstractmethod
    def target_ids(self, example: Example) -> list[int]:
        """Token ids of the target, without an end token."""

    @abstractmethod
    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        """The newly written ids of ``generate``'s output."""

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        target = self.target_ids(example)
        if not target or target[-1] != self.end:
            target = [*target, self.end]
        return tuple(target[: lengths.target])

    def answers(self, prompts: Mapping[str, Tensor], max_new_tokens: int) -> list[str]:
        generated = self.model.generate(  # type: ignore[operator]
            **prompts, generation_config=self._greedy(max_new_tokens)
        )
        return [self.text(ids) for ids in self.written(generated, prompts["input_ids"])]

    def check(self, task: Task) -> None:
        """Every task can be written."""

    def prepare(self, tasks: Sequence[Task], seed: int) -> None:
        """Nothing has to be opened."""

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return ()

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def values(self) -> dict[str, Any]:
        return {}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """There is nothing to take over or to forget."""

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        # Built anew: a host's own generation settings may sample, search beams or forbid repetition.
        own: Any = self.model.generation_config
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.pad,
            eos_token_id=sorted({self.end, *(end for end in ends if end is not None)}),
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )


class EncoderDecoder(Writing):
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

    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return model(**inputs, use_cache=False).logits, batch["labels"]

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        return generated


class DecoderOnly(Writing):
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

    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return output.logits[:, :-1], batch["labels"][:, 1:]

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
