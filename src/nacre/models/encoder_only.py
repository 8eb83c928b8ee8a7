"""Hosts that choose their answers: an encoder reads the text, and a class of all seen so far is the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nacre.errors import DataError
from nacre.models.classifier import Classifier
from nacre.models.families import Encoded, Family, Lengths, Tokenizer
from nacre.tasks.task import Task
from nacre.tasks.template import Example

ENCODERS = ("bert", "roberta", "xlm-roberta")
"""The architectures, by ``config.model_type``, whose hosts are encoder-only (unless made into a decoder)."""


def is_encoder(config: Any) -> bool:
    """Whether a model of this config reads only. transformers lists these also as causal models, for use as a decoder,
    which they were not made for."""
    return getattr(config, "model_type", "") in ENCODERS and not getattr(config, "is_decoder", False)


class EncoderOnly(Family):
    """BERT, RoBERTa and their kin: the most likely class is the answer, written as its label."""

    name = "encoder-only"
    padding_side = "right"
    decoding = "the most likely of all classes learnt so far"
    writes = False

    model: Classifier

    def __init__(self, model: Classifier, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)

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

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """``labels`` [B]: the rows' classes."""
        if not all(row.target for row in rows):
            raise DataError(
                "A row to be learnt has an answer that is no label of any task learnt so far; an encoder-only host can "
                "only choose among those."
            )
        return {**self.prompts(rows), "labels": torch.tensor([row.target[0] for row in rows])}

    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return output.logits, batch["labels"]

    def answers(self, prompts: Mapping[str, Tensor], max_new_tokens: int) -> list[str]:
        """Labels, one a row; empty as long as there is no class to choose."""
        classes = self.model.head.classes
        if not classes:
            return [""] * len(prompts["input_ids"])
        return [classes[number] for number in self.model(**prompts).logits.argmax(-1).tolist()]

    def check(self, task: Task) -> None:
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
        self.model.head.grow([label for task in tasks for label in task.labels or ()], seed)

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return self.model.head.trained()

    def tensors(self) -> dict[str, Tensor]:
        return self.model.head.tensors()

    def values(self) -> dict[str, Any]:
        return self.model.head.values()

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.model.head.load(tensors, values)
