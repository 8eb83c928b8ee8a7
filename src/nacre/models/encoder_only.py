"""Hosts that choose their answers: an encoder reads the text, and a class of all seen so far is the answer.

Of unlabelled text they learn to name hidden tokens (``models/masked_lm``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nacre.errors import DataError
from nacre.models.chunks import chunked
from nacre.models.classifier import Classifier
from nacre.models.families import Encoded, Family, Lengths, Tokenizer
from nacre.models.label_tree import Labels
from nacre.models.masked_lm import MaskedText, TokenHead, masking_of
from nacre.tasks.task import Task
from nacre.tasks.template import Example

ENCODERS = ("bert", "roberta", "xlm-roberta")
"""The architectures, by ``config.model_type``, whose hosts are encoder-only (unless made into a decoder)."""

TOKENS = "tokens."
"""What the names of the masked-LM head's tensors begin with."""


def is_encoder(config: Any) -> bool:
    """Whether a model of this config reads only. transformers lists these also as causal models, for use as a decoder,
    which they were not made for."""
    return getattr(config, "model_type", "") in ENCODERS and not getattr(config, "is_decoder", False)


class EncoderOnly(Family):
    """BERT, RoBERTa and their kin: the most likely class is the answer, written as its label."""

    name = "encoder-only"
    padding_side = "right"
    decoding = "the most likely of all classes learnt so far"
    choosing = "of the task's labels, the most likely class"
    writes = False

    model: Classifier

    def __init__(self, model: Classifier, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        self.learns_text = False  # whether the newest tasks are unlabelled text

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def source_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def reserved(self, lengths: Lengths) -> int:
        # RoBERTa counts positions from behind the one that stands for padding; BERT has no such position.
        padding = self.model.encoder.embeddings.position_embeddings.padding_idx  # type: ignore[union-attr]
        return 0 if padding is None else int(padding) + 1  # type: ignore[arg-type]

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        classes = self.model.head.classes
        return (classes.index(example.target),) if example.target in classes else ()

    def text_rows(self, texts: Sequence[str], lengths: Lengths) -> list[Encoded]:
        masking = masking_of(self.tokenizer)
        chunks = chunked([self.source_ids(text) for text in texts], self.source_limit(lengths))
        return [MaskedText.of(chunk, masking) for chunk in chunks]

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """``labels`` [B]: the rows' classes. Of texts, [k]: the hidden tokens of all rows, and in ``places`` [k] where
        they are among the B * S tokens."""
        texts = [row for row in rows if isinstance(row, MaskedText)]
        if texts and len(texts) == len(rows):
            return self._text_batch(texts)
        if texts:
            raise DataError(
                "A step holds unlabelled text and rows with labels, which an encoder-only host learns in different "
                "ways: learn them as tasks one after the other, without replay of one among the other."
            )
        if not all(row.target for row in rows):
            raise DataError(
                "A row to be learnt has an answer that is no label of any task learnt so far; an encoder-only host can "
                "only choose among those."
            )
        return {**self.prompts(rows), "labels": torch.tensor([row.target[0] for row in rows])}

    def _text_batch(self, rows: Sequence[MaskedText]) -> dict[str, Tensor]:
        self.model.with_token_head()
        prompts = self.prompts(rows)
        width = prompts["input_ids"].shape[1]
        places = [number * width + place for number, row in enumerate(rows) for place in row.places]
        labels = [token for row in rows for token in row.target]
        return {
            **prompts,
            "places": torch.tensor(places, dtype=torch.long),
            "labels": torch.tensor(labels, dtype=torch.long),
        }

    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return model(**inputs).logits, batch["labels"]

    def answers(self, prompts: Mapping[str, Tensor], max_new_tokens: int) -> list[str]:
        """Labels, one a row; empty as long as there is no class to choose."""
        classes = self.model.head.classes
        if not classes:
            return [""] * len(prompts["input_ids"])
        return [classes[number] for number in self.model(**prompts).logits.argmax(-1).tolist()]

    def choices(self, prompts: Mapping[str, Tensor], labels: Labels) -> list[int | None]:
        """Among those of the labels that are classes already."""
        known = [number for number, label in enumerate(labels) if label]
        if not known:
            return [None] * len(prompts["input_ids"])
        logits = self.model(**prompts).logits[:, [labels[number][0] for number in known]]
        return [known[best] for best in logits.argmax(-1).tolist()]

    def check(self, task: Task) -> None:
        if task.kind == "text":
            masking_of(self.tokenizer)
            return
        if task.labels is None:
            raise DataError(
                f"Task '{task.name}' has no labels, and an encoder-only host ({self.model.config.model_type}) cannot "
                "write free text: give the task labels, or take an encoder-decoder or decoder-only model."
            )
        for number, row in enumerate(task.train, start=1):
            if row.target not in task.labels:
                raise DataError(
                    f"Task '{task.name}', train row {number}: label '{row.target}' is not in the label set "
                    f"({', '.join(task.labels)})."
                )

    def prepare(self, tasks: Sequence[Task], seed: int) -> None:
        self.learns_text = all(task.kind == "text" for task in tasks)
        if self.learns_text:
            head = self._token_head()
            head.moved = True
            for parameter in head.own():
                parameter.requires_grad_(True)
            return
        self.model.head.grow([label for task in tasks for label in task.labels or ()], seed)

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The rows of the newest tasks' classes, or the head that names tokens."""
        return self._token_head().own() if self.learns_text else self.model.head.trained()

    def tensors(self) -> dict[str, Tensor]:
        head = self.model.token_head
        tokens = {} if head is None else head.tensors()
        return self.model.head.tensors() | {f"{TOKENS}{name}": tensor for name, tensor in tokens.items()}

    def values(self) -> dict[str, Any]:
        text = {"text": self.learns_text} if self.model.token_head is not None and self.model.token_head.moved else {}
        return self.model.head.values() | text

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.learns_text = bool(values.get("text", False))
        self.model.head.load(tensors, values)
        tokens = {name.removeprefix(TOKENS): tensor for name, tensor in tensors.items() if name.startswith(TOKENS)}
        if tokens or self.model.token_head is not None:
            self._token_head().load(tokens)

    def _token_head(self) -> TokenHead:
        return self.model.with_token_head()
