"""Hosts that choose their answers: an encoder reads the text, and a class of all seen so far is the answer.

Of unlabelled text they learn to name hidden tokens (``models/masked_lm``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nacre.errors import DataError
from nacre.models.chunks import chunked
from nacre.models.classifier import Classifier
from nacre.models.families import Encoded, Family, HeadKind, Lengths, Tokenizer
from nacre.models.label_tree import Labels
from nacre.models.masked_lm import MaskedText, TokenHead, masking_of
from nacre.models.task_heads import TaskHeads
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
    """BERT, RoBERTa and their kin: the most likely class is the answer, written as its label.

    With a head for each task (``use_head``), the most likely class of the row's own task.
    """

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
        number = self.model.head.number(example.task, example.target)
        return () if number is None else (number,)

    def cue(self, example: Example) -> str:
        """The task, where each has classes of its own."""
        return example.task if isinstance(self.model.head, TaskHeads) else ""

    def prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """With a head for each task also ``tasks`` [B]: which one each row is of."""
        prompts, head = super().prompts(rows), self.model.head
        if not isinstance(head, TaskHeads):
            return prompts
        if not all(row.task for row in rows):
            raise DataError(
                "A row does not say of which task it is, which a host with head=per_task must know: rows of a Task do "
                "(task.examples), and predict(inputs, task=NAME) tells it for finished prompts."
            )
        return {**prompts, "tasks": torch.tensor([head.place(row.task) for row in rows])}

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
        prompts = self.prompts(rows)
        if not all(row.target for row in rows):
            raise DataError(
                "A row to be learnt has an answer that is no label of any task learnt so far; an encoder-only host can "
                "only choose among those."
            )
        return {**prompts, "labels": torch.tensor([row.target[0] for row in rows])}

    def _text_batch(self, rows: Sequence[MaskedText]) -> dict[str, Tensor]:
        self.model.with_token_head()
        prompts = super().prompts(rows)
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
        best = _likeliest(self.model(**prompts).logits)
        return ["" if number is None else classes[number] for number in best]

    def choices(self, prompts: Mapping[str, Tensor], labels: Labels) -> list[int | None]:
        """Among those of the labels that are classes already."""
        known = [number for number, label in enumerate(labels) if label]
        if not known:
            return [None] * len(prompts["input_ids"])
        logits = self.model(**prompts).logits[:, [labels[number][0] for number in known]]
        return [None if best is None else known[best] for best in _likeliest(logits)]

    def check(self, task: Task) -> None:
        if task.kind == "text":
            masking_of(self.tokenizer)
            return
        if task.conversations:
            raise self.no_conversations()
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

    def use_head(self, kind: HeadKind) -> None:
        self.model.use_head(kind)
        told = kind == "per_task"
        self.decoding = "the most likely class of the task's own head" if told else type(self).decoding
        self.choosing = "of the task's labels, the most likely class of its own head" if told else type(self).choosing

    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str] = ()) -> None:
        self.learns_text = all(task.kind == "text" for task in tasks)
        if self.learns_text:
            head = self._token_head()
            head.moved = True
            for parameter in head.own():
                parameter.requires_grad_(True)
            return
        self.model.head.prepare(tasks, seed, rehearsed)

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


def _likeliest(logits: Tensor) -> list[int | None]:
    """The number of the largest logit of each row of [B, k]; None where all are -inf: where no class is open to it."""
    best = logits.argmax(-1, keepdim=True)
    closed = logits.gather(-1, best) == -math.inf
    return [None if shut else number for number, shut in zip(best[:, 0].tolist(), closed[:, 0].tolist(), strict=True)]
