"""How text becomes tensors and tensors become a loss or an answer: what the families of language models share.

`models/generative` has the two that write their answers, `models/encoder_only` the one that classifies.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from nacre.errors import DataError, RecipeError
from nacre.functional.losses import token_loss_sum
from nacre.models.batch import Batch, Router
from nacre.models.classification_head import ClassificationHead
from nacre.models.label_tree import Labels
from nacre.models.masked_text import MaskedText
from nacre.models.prefix import Prefix
from nacre.models.ways import Ways
from nacre.tasks.task import Task
from nacre.tasks.template import Example

CACHED_INPUTS = 2**16
"""Of so many inputs the token ids are kept."""

Tokenizer = Any  # transformers' tokenizers share no typed base that a checker could use


@dataclass(frozen=True)
class Lengths:
    """How many tokens an input and a target may have. The papers' pipeline: 512 and 50.

    Attributes:
        source: Tokens of an input.
        target: Tokens of a target.
    """

    source: int = 512
    target: int = 50


WHOLE = Lengths(sys.maxsize, sys.maxsize)
"""Lengths at which nothing is cut."""


@dataclass(frozen=True)
class Encoded:
    """One example as numbers.

    Attributes:
        source: The tokens that are read.
        target: The tokens that are to be written, with their end token; or the one class that is to be chosen; or the
            hidden tokens of a text.
        truncated: Whether text was cut.
        earlier: Positions in the source that are to be written, too: the earlier answers of a conversation.
        task: The task that the example is of, "" if it is not given.
        text: Of a masked text: the chunk and what is hidden of it.
        example: What it was made of; None if nobody knows, as of token ids alone.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    truncated: bool
    earlier: tuple[int, ...] = field(default=(), kw_only=True)
    task: str = field(default="", kw_only=True)
    text: MaskedText | None = field(default=None, kw_only=True)
    example: Example | None = field(default=None, kw_only=True, compare=False, repr=False)

    @classmethod
    def of_text(cls, text: MaskedText, task: str = "") -> Encoded:
        """A masked text as a row."""
        return cls(text.shown, text.hidden, truncated=False, task=task, text=text)

    @property
    def bare(self) -> str | None:
        """The example's text before any template; None if it is not known, as of a finished prompt."""
        if self.example is None or self.example.finished or (self.example.turns and not self.example.text):
            return None
        return self.example.text

    @property
    def num_target_tokens(self) -> int:
        """How many tokens are to be predicted: what the row's summed loss is divided by."""
        return len(self.target) + len(self.earlier)

    def length(self) -> int:
        """How many tokens are read and written."""
        return len(self.source) + len(self.target)

    def with_fresh_masks(self, seed: int, *where: str | int) -> Encoded:
        """The row as it is trained on at one place (epoch and row).

        That is itself or, of a masked text, with other tokens hidden, by the seed and the place alone.
        """
        if self.text is None:
            return self
        text = self.text.with_fresh_masks(seed, *where)
        return replace(self, source=text.shown, target=text.hidden, text=text)


class Family(ABC):
    """Encoder-decoder, decoder-only or encoder-only.

    Whoever runs the host does so by `predictions`, `answers` or `classify`, or inside `routed`: these are the only ways
    into the model. The model is passed in where it learns, because a distributed run wraps it.

    Attributes:
        name: The family's, as messages and protocols print it.
        padding_side: Where prompts are padded.
        is_generative: Whether answers are free text, token by token.
        prefix_at: Where in an input virtual tokens stand: in front of everything, or behind the class token.
        model: The host's model.
        tokenizer: Its tokenizer.
        head: Its classification head; None where answers are written.
        router: Decides, before a batch is read, which parameters answer; None where there is nothing to decide.
        prefix: Which virtual tokens stand in front of an input; None where there are none. `Encoded` rows do not hold
            them: they are written when rows become a batch.
        ways: What may be done with rows side by side, where something is not known of the architecture.
        multiple: Inputs that are padded at all are padded to a multiple of so many tokens.
    """

    name: ClassVar[str]
    padding_side: ClassVar[str]
    is_generative: ClassVar[bool]
    prefix_at: ClassVar[int]

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, head: ClassificationHead | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.head = head
        self.router: Router | None = None
        self.prefix: Prefix | None = None
        self.ways = Ways()
        self.multiple = 8
        self._is_routing = False
        # Test rows are read after every task, rehearsed rows in every later one: they are tokenized once.
        self._sources = lru_cache(maxsize=CACHED_INPUTS)(self._source)

    @property
    @abstractmethod
    def decoding(self) -> str:
        """A description of how free answers come about: a part of a run's protocol."""

    @property
    @abstractmethod
    def label_decoding(self) -> str:
        """A description of how one of the task's labels is chosen: a part of a run's protocol."""

    @property
    @abstractmethod
    def pad(self) -> int:
        """The token that fills up short rows; it is always masked out."""

    @abstractmethod
    def source_ids(self, text: str) -> list[int]:
        """Token ids of an input text, special tokens included."""

    @abstractmethod
    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of an example.

        Only the text is cut, from the right: instruction, options and the answer cue survive (the released pipelines
        cut the cue away; docs/fidelity.md, P4).

        Raises:
            DataError: If nothing of the text would be left, or hosts of this family cannot learn such an example.
        """

    @abstractmethod
    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        """Numbers of an example's target: its token ids with their end token, at most `lengths.target`, or its class.

        There is no class as long as the target has never been among a task's labels.
        """

    @abstractmethod
    def text_rows(self, texts: Sequence[str], lengths: Lengths, task: str = "") -> list[Encoded]:
        """Texts as rows that are learned themselves, each at most `lengths.source` tokens long.

        Raises:
            DataError: If hosts of this family learn none.
        """

    @abstractmethod
    def spelling(self, example: Example) -> str:
        """The answer of a host that has learned the example by heart.

        That is its target as the tokenizer writes it back, or, where labels are chosen whole, the target itself.
        """

    @abstractmethod
    def is_cut(self, target: Sequence[int]) -> bool:
        """Whether a target of `encode_target` was too long, and has lost its end."""

    @abstractmethod
    def cue(self, example: Example) -> str:
        """The part of the input that the target's numbers depend on."""

    @abstractmethod
    def reserved(self, lengths: Lengths) -> int:
        """Number of positions that an input cannot have; 0 if it can have all."""

    @abstractmethod
    def prompts(self, rows: Sequence[Encoded]) -> Batch:
        """Tensors for answers: `input_ids`, `attention_mask` [B, S]."""

    @abstractmethod
    def batch(self, rows: Sequence[Encoded]) -> Batch:
        """Tensors for training: `input_ids`, `attention_mask` [B, S], `labels` with `IGNORED` elsewhere."""

    @abstractmethod
    def size(self, batch: Batch) -> tuple[int, int]:
        """How many tokens the model reads or writes in a training batch, and how many with padding."""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Check that hosts of this family can learn the task.

        Raises:
            DataError: If they cannot.
        """

    @abstractmethod
    def _predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `predictions`."""

    @abstractmethod
    def _answers(self, prompts: Batch, max_new_tokens: int) -> list[str]:
        """See `answers`."""

    @abstractmethod
    def _passes(self, prompts: Batch, labels: Labels) -> Iterable[Batch]:
        """The rows in as many batches as `_classify` can take, in their order."""

    @abstractmethod
    def _classify(self, prompts: Batch, labels: Labels) -> list[int | None]:
        """See `classify`."""

    @abstractmethod
    def _label_scores(self, prompts: Batch, labels: Labels) -> Tensor:
        """See `label_scores`."""

    @final
    def routed(self, batch: Batch) -> AbstractContextManager[None]:
        """A context in which the model reads the batch with the parameters that the router chooses for it.

        Nested contexts ask the router no second time. Without a router nothing happens, at no cost.

        Args:
            batch: The rows that are about to be read, on the model's device.
        """
        if self.router is None or self._is_routing:
            return nullcontext()
        return self._routed(self.router, batch)

    @contextmanager
    def _routed(self, router: Router, batch: Batch) -> Iterator[None]:
        self._is_routing = True  # the router may run the model itself
        try:
            with router.route(batch):
                yield
        finally:
            self._is_routing = False

    @final
    def predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the model predicts of a training batch.

        Args:
            model: The host's model, or what wraps it.
            batch: From `batch`, on the model's device.

        Returns:
            Logits [..., V] and, position by position, the token they should predict [...], or `IGNORED`.
        """
        with self.routed(batch):
            return self._predictions(model, batch)

    @final
    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum of the loss over the target tokens of a batch. Returns []."""
        return token_loss_sum(*self.predictions(model, batch))

    @final
    def answers(self, prompts: Batch, max_new_tokens: int) -> list[str]:
        """Answers to a batch that `prompts` made, of at most so many tokens each."""
        with self.routed(prompts):
            return self._answers(prompts, max_new_tokens)

    @final
    def classify(self, prompts: Batch, labels: Labels) -> list[int | None]:
        """The number of the most likely label for each row of a batch that `prompts` made.

        It is None where no label can be chosen.
        """
        best: list[int | None] = []
        for rows in self._passes(prompts, labels):
            with self.routed(rows):
                best += self._classify(rows, labels)
        return best

    @final
    def label_scores(self, prompts: Batch, labels: Labels) -> Tensor:
        """log p of each label for each row of a batch that `prompts` made, with its graph.

        Of a label that is written it is the sum over its tokens, its end token included; of one that is a class, the
        logarithm of its share among all classes that may answer.

        Returns:
            [B, labels], in float32 at least; -inf of a label that cannot be given.
        """
        scores = []
        for rows in self._passes(prompts, labels):
            with self.routed(rows):
                scores.append(self._label_scores(rows, labels))
        return torch.cat(scores)

    @final
    def encode_all(self, examples: Sequence[Example], lengths: Lengths) -> list[Encoded]:
        """Token ids of examples, in their order.

        Texts that are learned themselves and follow one another are packed (`models/chunks`), so that there may be more
        or fewer rows than examples.
        """
        rows: list[Encoded] = []
        for kind, group in groupby(examples, key=lambda example: example.kind):
            if kind == "text":
                rows += self._texts(list(group), lengths)
            else:
                rows += [self.encode(example, lengths) for example in group]
        return rows

    @final
    def fitting(self, text: str, limit: int, example: Callable[[str], Example]) -> str:
        """The text, or as much of its beginning as fits into a target.

        Args:
            text: Is a part of the target, not all of it.
            limit: How many tokens a target may have, its end token included.
            example: Makes the example that has the text, or a beginning of it, in its target.

        Raises:
            DataError: If nothing of the text is left.
        """
        return self._fit(text, lambda text: list(self.encode_target(example(text), WHOLE)), limit, text)[1]

    @final
    def label_set(self, example: Example, labels: Sequence[str], lengths: Lengths) -> Labels:
        """Each label's numbers, as targets of the example. They depend on it by its `cue` alone."""
        return tuple(self.encode_target(replace(example, target=label), lengths) for label in labels)

    @final
    def bare(self, row: Encoded, lengths: Lengths) -> Encoded:
        """The row with its text alone as what is read, before any template and cut like an input.

        A row whose text is not known is its own: a finished prompt.
        """
        if row.bare is None:
            return row
        ids, truncated = self._sources("", row.bare, "", self.source_limit(lengths))
        return replace(row, source=tuple(ids), truncated=truncated)

    @final
    def source_limit(self, lengths: Lengths) -> int:
        """How many tokens an input may have in this host: the given length, or what its positions leave."""
        return self._limit(lengths, self.reserved(lengths))

    @final
    def prefix_of(self, task: str) -> tuple[int, ...]:
        """The virtual tokens in front of an input of this task ("" if nobody said which); () where there are none.

        Raises:
            DataError: If they depend on the task, and it was not given.
        """
        return () if self.prefix is None else self.prefix.tokens(task)

    @property
    @final
    def prefix_is_behind(self) -> bool:
        """Whether virtual tokens stand behind an input instead of in front of it."""
        return self.prefix is not None and self.prefix.behind

    @final
    def check_lengths(self, lengths: Lengths, max_new_tokens: int | None) -> None:
        """Check that the model's positions hold the longest answer, behind the longest input where they share them.

        Args:
            lengths: Of inputs and targets.
            max_new_tokens: Of answers; None: as long as the targets.

        Raises:
            RecipeError: If they do not.
        """
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if positions is None or not self.is_generative:
            return
        read = self.source_limit(lengths) if self.reserved(lengths) else 0
        behind = f" behind inputs of up to {read} tokens" if read > 0 else ""
        settings = {"optim.max_target_length": lengths.target, "evaluation.max_new_tokens": max_new_tokens or 0}
        for setting, tokens in settings.items():
            if read < 0 or read + tokens > positions:
                raise RecipeError(f"{setting} = {tokens}: the model has {positions} positions, too few{behind}.")

    @final
    def text(self, ids: Sequence[int] | Tensor) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()  # type: ignore[no-any-return]

    @final
    def width(self, rows: Sequence[Sequence[int]]) -> int:
        """How wide a batch of token ids is: as wide as its rows.

        Where they differ and have to be padded anyway: as the longest of them, rounded up as far as the positions
        allow.
        """
        longest = max(len(row) for row in rows)
        if all(len(row) == longest for row in rows):
            return longest
        rounded = -(-longest // self.multiple) * self.multiple
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return max(longest, min(rounded, positions)) if positions else rounded

    @final
    def no_conversations(self) -> DataError:
        """Why hosts of this family learn none."""
        return DataError(
            f"Conversations cannot be learned by an {self.name} host, which reads once and answers once: take a "
            "decoder-only model, or write a row for each answer, with 'prompt' and 'completion' as text."
        )

    def _encode_parts(self, example: Example, lengths: Lengths) -> Encoded:
        """An example that is an input in three parts and a target."""
        limit = self._limit(lengths, self.reserved(lengths), example.task)
        source, truncated = self._sources(example.before, example.text, example.after, limit)
        target = self.encode_target(example, lengths)
        return Encoded(tuple(source), target, truncated, task=example.task, example=example)

    def _limit(self, lengths: Lengths, reserved: int, task: str | None = None) -> int:
        """How many tokens an input may have: the given length, or what the host's positions leave.

        Args:
            lengths: The given ones. Virtual tokens do not count among them: all methods read the same text.
            reserved: Positions that an input cannot have.
            task: The input's; None: as if there were no virtual tokens.

        Raises:
            DataError: If the virtual tokens leave nothing.
        """
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if not positions:
            return lengths.source
        prefix = 0 if task is None else len(self.prefix_of(task))
        if prefix and prefix > (room := positions - reserved) - 2:
            raise DataError(
                f"The {prefix} prompt tokens in front of an input of task '{task}' leave no room for its text in the "
                f"{room} positions that this model has for them: make the prompts shorter, or share one."
            )
        return int(min(lengths.source, positions - reserved - prefix))

    def _read(self, row: Encoded) -> tuple[int, ...]:
        """What the model reads of a row: its source with the virtual tokens of its task."""
        prefix = self.prefix_of(row.task)
        if not prefix:
            return row.source
        at = len(row.source) if self.prefix_is_behind else self.prefix_at
        return (*row.source[:at], *prefix, *row.source[at:])

    def _texts(self, examples: Sequence[Example], lengths: Lengths) -> list[Encoded]:
        """Texts as rows. A chunk may hold texts of several tasks; then it is of none."""
        tasks = {example.task for example in examples}
        return self.text_rows([example.text for example in examples], lengths, tasks.pop() if len(tasks) == 1 else "")

    def _source(self, before: str, text: str, after: str, limit: int) -> tuple[array[int], bool]:
        """Token ids of an input, and whether its text was cut."""
        ids, kept = self._fit(text, lambda text: self.source_ids(before + text + after), limit, before)
        return array("i", ids), kept is not text

    def _fit(self, text: str, read: Callable[[str], list[int]], limit: int, beginning: str) -> tuple[list[int], str]:
        """Token ids of the whole input, and the text, or as much of its beginning as fits in.

        `read` gives the token ids of the whole input around a text; `beginning` is the input's, for a message.
        """
        ids = read(text)
        if len(ids) > limit and not self.tokenizer.is_fast:  # tokenizers in Python (ByT5's) tell no offsets
            text = text[: _longest(len(text), lambda size: len(read(text[:size])) <= limit)]
            if not text:
                raise _no_room(beginning, limit)
            ids = read(text)
        while len(ids) > limit:
            # Drop as many of the text's tokens as there are too many. Tokens at the seams may merge differently
            # afterwards, hence the loop; several tokens may share one character, so each round drops at least one.
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            keep = len(offsets) - (len(ids) - limit)
            if keep <= 0:
                raise _no_room(beginning, limit)
            text = text[: min(offsets[keep - 1][1], len(text) - 1)]
            ids = read(text)
        return ids, text

    def _prompts(self, rows: Sequence[Encoded]) -> Batch:
        """The rows' inputs, padded."""
        sources = [self._read(row) for row in rows]
        width = self.width(sources)
        ids = self._padded(sources, self.pad, width, self.padding_side)
        mask = self._padded([[1] * len(source) for source in sources], 0, width, self.padding_side)
        return Batch.of(rows, {"input_ids": ids, "attention_mask": mask})

    @staticmethod
    def _padded(rows: Sequence[Sequence[int]], fill: int, width: int, side: str = "right") -> Tensor:
        if side == "left":
            return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])
        return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])


def _longest(size: int, fits: Callable[[int], bool]) -> int:
    """The largest size below the given one that fits, by bisection; 0 always does."""
    least = 0
    while size - least > 1:
        middle = (least + size) // 2
        least, size = (middle, size) if fits(middle) else (least, middle)
    return least


def _no_room(beginning: str, limit: int) -> DataError:
    return DataError(
        f"The instruction, options and answer cue alone fill the {limit} tokens an input may have (prompt begins "
        f"'{' '.join(beginning.split())[:60]}'): raise max_source_length, or lower max_target_length where the model's "
        "positions hold both."
    )


def read_size(batch: Batch) -> tuple[int, int]:
    """How many tokens a batch's inputs have, and how many with padding."""
    return int(batch["attention_mask"].sum()), batch["input_ids"].numel()
