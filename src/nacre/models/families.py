"""How text becomes tensors and tensors become a loss or an answer: what the families of language models share.

``models/generative`` has the two whose hosts write their answers, ``models/encoder_only`` the one whose hosts choose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nacre.errors import DataError, ModelError
from nacre.functional.losses import token_loss_sum
from nacre.models.label_tree import Labels
from nacre.tasks.task import Task
from nacre.tasks.template import Example

REMEMBERED = 2**16
"""Of so many inputs the token ids are remembered."""

Tokenizer = Any  # transformers' tokenizers share no typed base that a checker could use

HeadKind = Literal["growing", "per_task"]
"""What hosts choose their answers by: one head, which grows with the tasks' labels, or a head for each task, which they
are then told."""


@dataclass(frozen=True)
class Lengths:
    """How many tokens an input and a target may have. The papers' pipeline: 512 and 50."""

    source: int = 512
    target: int = 50


@dataclass(frozen=True)
class Encoded:
    """One example as numbers: the tokens that are read; the tokens that are to be written, with their end token, or
    the one class that is to be chosen; whether text was cut.

    earlier: places in the source that are to be written, too: the earlier answers of a conversation.
    task: which one the example is of; only hosts with a head for each task are told.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    truncated: bool
    earlier: tuple[int, ...] = field(default=(), kw_only=True)
    task: str = field(default="", kw_only=True)

    @property
    def asked(self) -> int:
        """How many tokens the row asks for: what its summed loss is divided by."""
        return len(self.target) + len(self.earlier)

    def length(self) -> int:
        return len(self.source) + len(self.target)

    def drawn(self, seed: int, *where: str | int) -> Encoded:
        """The row as it is trained on at one place (epoch and row): itself, or with what is random in it drawn anew,
        by the seed and the place alone."""
        return self


class Family(ABC):
    """Encoder-decoder, decoder-only or encoder-only. Holds the tokenizer and the ids; the model is passed in where it
    learns, because a distributed run wraps it."""

    name: ClassVar[str]
    padding_side: ClassVar[str]

    decoding: str
    """How free answers come about, in words: a part of a run's protocol."""

    choosing: str
    """How one of the task's labels is chosen, in words, likewise."""

    writes: ClassVar[bool]
    """Whether answers are free text, token by token."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.multiple = 8
        """Inputs that are padded at all are padded to a multiple of so many tokens."""
        # Test rows are read after every task, rehearsed rows in every later one: they are tokenized once.
        self._sources = lru_cache(maxsize=REMEMBERED)(self._source)

    @property
    @abstractmethod
    def pad(self) -> int:
        """The token that fills up short rows; it is always masked out."""

    @abstractmethod
    def source_ids(self, text: str) -> list[int]:
        """Token ids of an input text, special tokens included."""

    @abstractmethod
    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        """Numbers of an example's target: its token ids with their end token, at most ``lengths.target``, or its class
        (none as long as it has never been among a task's labels)."""

    @abstractmethod
    def answers(self, prompts: Mapping[str, Tensor], max_new_tokens: int) -> list[str]:
        """Answers to a batch that ``prompts`` made."""

    @abstractmethod
    def choices(self, prompts: Mapping[str, Tensor], labels: Labels) -> list[int | None]:
        """The number of the best label for each row; None where no label can be chosen."""

    @abstractmethod
    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Tensors for training: ``input_ids``, ``attention_mask`` [B, S], ``labels`` with ``IGNORED`` elsewhere."""

    @abstractmethod
    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [..., V] and, position by position, the token they should predict [...], or ``IGNORED``."""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise ``DataError`` if hosts of this family cannot learn the task."""

    @abstractmethod
    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str] = ()) -> None:
        """Get ready to learn these tasks: open what the family itself trains on them. seed: the run's. rehearsed:
        earlier tasks of which rows will be learnt again, told where there is a head for each task."""

    @abstractmethod
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What the family itself trains on the newest tasks; everything else that is trained is the adapter's."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the family itself has learnt; the tensors themselves, detached, not copies."""

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Plain values that say what ``tensors`` are."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what ``tensors`` and ``values`` gave, bit for bit; from nothing, forget everything."""

    def use_head(self, kind: HeadKind) -> None:
        """Have a head of that kind, where hosts choose their answers; ``ModelError`` if they do not. What a head of
        another kind has learnt is gone."""
        if kind != "growing":
            raise ModelError(
                f"head={kind}: an {self.name} host writes its answers and has no head to choose them by. Take an "
                "encoder-only model, or leave 'head' at growing."
            )

    def size(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        """How many tokens the model reads or writes in a training batch, and how many with padding."""
        return int(batch["attention_mask"].sum()), batch["input_ids"].numel()

    def loss_sum(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Sum of the loss over the target tokens of a batch. Returns []."""
        return token_loss_sum(*self.predictions(model, batch))

    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of an example. Only the text is cut, from the right: instruction, options and the answer cue
        survive (the released pipelines cut the cue away; docs/fidelity.md, P4)."""
        if example.turns:
            raise self.no_conversations()
        source, truncated = self._sources(example.before, example.text, example.after, self.source_limit(lengths))
        return Encoded(tuple(source), self.encode_target(example, lengths), truncated, task=example.task)

    def _source(self, before: str, text: str, after: str, limit: int) -> tuple[array[int], bool]:
        """Token ids of an input, and whether its text was cut."""
        ids, kept = self._fit(text, lambda text: self.source_ids(before + text + after), limit, before)
        return array("i", ids), kept is not text

    def no_conversations(self) -> DataError:
        """Why hosts of this family learn none."""
        return DataError(
            f"Conversations cannot be learnt by an {self.name} host, which reads once and answers once: take a "
            "decoder-only model, or write a row for each answer, with 'prompt' and 'completion' as text."
        )

    def encode_all(self, examples: Sequence[Example], lengths: Lengths) -> list[Encoded]:
        """Token ids of examples, in their order. Texts that are learnt themselves and follow one another are packed
        (``models/chunks``), so that there may be more or fewer rows than examples."""
        rows: list[Encoded] = []
        for kind, group in groupby(examples, key=lambda example: example.kind):
            if kind == "text":
                rows += self.text_rows([example.text for example in group], lengths)
            else:
                rows += [self.encode(example, lengths) for example in group]
        return rows

    def text_rows(self, texts: Sequence[str], lengths: Lengths) -> list[Encoded]:
        """Texts as rows that are learnt themselves, each at most ``lengths.source`` tokens long.

        Raises ``DataError`` if hosts of this family learn none.
        """
        raise DataError(
            f"Unlabelled text cannot be learnt by an {self.name} host: take an encoder-only model (masked tokens) or a "
            "decoder-only one (next tokens)."
        )

    def label_set(self, example: Example, labels: Sequence[str], lengths: Lengths) -> Labels:
        """Each label's numbers, as targets of the example. They depend on it by its ``cue`` alone."""
        return tuple(self.encode_target(replace(example, target=label), lengths) for label in labels)

    def cue(self, example: Example) -> str:
        """What of the input the target's numbers depend on."""
        return ""

    def source_limit(self, lengths: Lengths) -> int:
        """How many tokens an input may have in this host: the asked-for length, or what its positions leave."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return min(lengths.source, positions - self.reserved(lengths)) if positions else lengths.source

    def reserved(self, lengths: Lengths) -> int:
        """Positions that an input cannot have: those that the target takes, none where the decoder has its own."""
        return 0

    def prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Tensors for generation: ``input_ids``, ``attention_mask`` [B, S]."""
        sources = [row.source for row in rows]
        width = self.width(sources)
        ids = self._padded(sources, self.pad, width, self.padding_side)
        mask = self._padded([[1] * len(source) for source in sources], 0, width, self.padding_side)
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, ids: Sequence[int] | Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()  # type: ignore[no-any-return]

    def _fit(self, text: str, read: Callable[[str], list[int]], limit: int, beginning: str) -> tuple[list[int], str]:
        """What the host reads, and the text, or as much of its beginning as fits in. read: token ids of the whole
        input around a text. beginning: of the input, for a message."""
        ids = read(text)
        while len(ids) > limit:
            # Drop as many of the text's tokens as there are too many. Tokens at the seams may merge differently
            # afterwards, hence the loop; several tokens may share one character, so each round drops at least one.
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            keep = len(offsets) - (len(ids) - limit)
            if keep <= 0:
                raise DataError(
                    f"The instruction, options and answer cue alone fill the {limit} tokens an input may have "
                    f"(prompt begins '{' '.join(beginning.split())[:60]}'): raise max_source_length, or lower "
                    "max_target_length where the model's positions hold both."
                )
            text = text[: min(offsets[keep - 1][1], len(text) - 1)]
            ids = read(text)
        return ids, text

    def width(self, rows: Sequence[Sequence[int]]) -> int:
        """How wide a batch of token ids is: as its rows, or, where they differ and have to be padded anyway, as the
        longest of them, rounded up as far as the positions allow."""
        longest = max(len(row) for row in rows)
        if all(len(row) == longest for row in rows):
            return longest
        rounded = -(-longest // self.multiple) * self.multiple
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return max(longest, min(rounded, positions)) if positions else rounded

    @staticmethod
    def _padded(rows: Sequence[Sequence[int]], fill: int, width: int, side: str = "right") -> Tensor:
        if side == "left":
            return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])
        return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])
