"""Hosts that classify: an encoder reads the text, and a class of all seen so far is the answer.

Of unlabeled text they learn to predict hidden tokens (`models/masked_text`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from nacre.errors import DataError
from nacre.models.architectures import architecture_of
from nacre.models.batch import Batch
from nacre.models.chunks import chunked
from nacre.models.classification_head import ClassificationHead
from nacre.models.classifier import Classifier
from nacre.models.families import Encoded, Family, Lengths, Tokenizer, read_size
from nacre.models.label_tree import Labels
from nacre.models.masked_text import MaskedText, masking_of
from nacre.models.task_heads import TaskHeads
from nacre.models.vocabulary import padding_of
from nacre.tasks.task import Task
from nacre.tasks.template import Example


def is_encoder(config: Any) -> bool:
    """Whether a model of this config reads only.

    transformers lists these also as causal models, for use as a decoder, which they were not made for.
    """
    architecture = architecture_of(config)
    encoder = architecture is not None and architecture.family == "encoder-only"
    return encoder and not getattr(config, "is_decoder", False)


@final
class EncoderOnly(Family):
    """BERT, RoBERTa and their kin: the most likely class is the answer, written as its label.

    With a head for each task (`ClassificationHead.use`), the most likely class of the row's own task.
    """

    name = "encoder-only"
    padding_side = "right"
    is_generative = False
    prefix_at = 1

    model: Classifier
    head: ClassificationHead

    def __init__(self, model: Classifier, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer, ClassificationHead(model))

    @property
    def decoding(self) -> str:
        """By all classes, or by those of the task's own head."""
        own = self.head.kind == "per_task"
        return "the most likely class of the task's own head" if own else "the most likely of all classes learnt so far"

    @property
    def label_decoding(self) -> str:
        """By the classes that the task's labels are."""
        best = "of the task's labels, the most likely class"
        return f"{best} of its own head" if self.head.kind == "per_task" else best

    @property
    def pad(self) -> int:
        """The tokenizer's."""
        return padding_of(self.model.encoder, self.tokenizer, instead=0)

    def source_ids(self, text: str) -> list[int]:
        """Token ids of a text, [CLS] and [SEP] included."""
        return list(self.tokenizer(text)["input_ids"])

    def reserved(self, lengths: Lengths) -> int:
        """RoBERTa counts positions from behind the one that stands for padding; BERT has no such position."""
        embeddings: Any = self.model.encoder.embeddings
        padding = embeddings.position_embeddings.padding_idx
        return 0 if padding is None else int(padding) + 1

    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of an example, and its class."""
        if example.turns:
            raise self.no_conversations()
        return self._encode_parts(example, lengths)

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        """The number of the target's class, if it has one."""
        number = self.head.labels.number(example.task, example.target)
        return () if number is None else (number,)

    def spelling(self, example: Example) -> str:
        """The target: labels are chosen whole."""
        return example.target

    def is_cut(self, target: Sequence[int]) -> bool:
        """Never: a target is one class."""
        return False

    def cue(self, example: Example) -> str:
        """The task, where each has classes of its own."""
        return example.task if isinstance(self.head.labels, TaskHeads) else ""

    def text_rows(self, texts: Sequence[str], lengths: Lengths, task: str = "") -> list[Encoded]:
        """Chunks of the texts, of which tokens are hidden."""
        masking = masking_of(self.tokenizer)
        limit = self._limit(lengths, self.reserved(lengths), task)
        chunks = chunked([self.source_ids(text) for text in texts], limit)
        return [Encoded.of_text(MaskedText.of(chunk, masking), task) for chunk in chunks]

    def prompts(self, rows: Sequence[Encoded]) -> Batch:
        """With a head for each task also `tasks` [B]: the number of each row's task."""
        prompts, labels = self._prompts(rows), self.head.labels
        if not isinstance(labels, TaskHeads):
            return prompts
        if not all(row.task for row in rows):
            raise DataError(
                "A row does not say of which task it is, which a host with head=per_task must know: rows of a Task do "
                "(task.examples), and predict(inputs, task=NAME) tells it for finished prompts."
            )
        return prompts.extended(tasks=torch.tensor([labels.task_number(row.task) for row in rows]))

    def batch(self, rows: Sequence[Encoded]) -> Batch:
        """Also `labels` [B]: the rows' classes.

        Of texts, `labels` [k] are the hidden tokens of all rows, and `positions` [k] say where they are among the B * S
        tokens.
        """
        texts = [row for row in rows if row.text is not None]
        if texts and len(texts) == len(rows):
            return self._text_batch(rows)
        if texts:
            raise DataError(
                "A step holds unlabeled text and rows with labels, which an encoder-only host learns in different "
                "ways: learn them as separate tasks, one after the other, and do not replay one while learning the "
                "other."
            )
        prompts = self.prompts(rows)
        if not all(row.target for row in rows):
            raise DataError(
                "A training row has an answer that is not a label of any task learned so far; an encoder-only host can "
                "only choose among those."
            )
        return prompts.extended(labels=torch.tensor([row.target[0] for row in rows]))

    def size(self, batch: Batch) -> tuple[int, int]:
        """Tokens of the inputs."""
        return read_size(batch)

    def check(self, task: Task) -> None:
        """Check that texts can be masked, and that every other task has labels and every row one of them."""
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

    def _text_batch(self, rows: Sequence[Encoded]) -> Batch:
        _ = self.head.mlm  # made now, if there is none, so that the model can predict tokens
        prompts = self._prompts(rows)
        width = prompts["input_ids"].shape[1]
        positions = [
            number * width + len(self.prefix_of(row.task)) + position  # the class token is never hidden
            for number, row in enumerate(rows)
            if row.text
            for position in row.text.positions
        ]
        return prompts.extended(
            positions=torch.tensor(positions, dtype=torch.long),
            labels=torch.tensor([token for row in rows for token in row.target], dtype=torch.long),
        )

    def _predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return model(**inputs).logits, batch["labels"]

    def _answers(self, prompts: Batch, max_new_tokens: int) -> list[str]:
        """Labels, one a row; empty as long as there is no class to choose."""
        classes = self.head.labels.classes
        if not classes:
            return [""] * prompts.size
        best = _most_likely(self.model(**prompts).logits)
        return ["" if number is None else classes[number] for number in best]

    def _passes(self, prompts: Batch, labels: Labels) -> tuple[Batch, ...]:
        return (prompts,)

    def _classify(self, prompts: Batch, labels: Labels) -> list[int | None]:
        """Among those of the labels that are classes already."""
        known = [number for number, label in enumerate(labels) if label]
        if not known:
            return [None] * prompts.size
        logits = self.model(**prompts).logits[:, [labels[number][0] for number in known]]
        return [None if best is None else known[best] for best in _most_likely(logits)]

    def _label_scores(self, prompts: Batch, labels: Labels) -> Tensor:
        logits = self.model(**prompts).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nothing = logits.new_full((prompts.size, 1), -math.inf)  # of a label that is no class yet
        numbers = [label[0] if label else -1 for label in labels]
        shares = logits.log_softmax(-1).nan_to_num(nan=-math.inf)  # where no class may answer
        return torch.cat([shares, nothing], 1)[:, numbers]


def _most_likely(logits: Tensor) -> list[int | None]:
    """The number of the largest logit of each row of [B, k]; None where all are -inf: where no class is open to it."""
    best = logits.argmax(-1, keepdim=True)
    closed = logits.gather(-1, best) == -math.inf
    return [None if shut else number for number, shut in zip(best[:, 0].tolist(), closed[:, 0].tolist(), strict=True)]
