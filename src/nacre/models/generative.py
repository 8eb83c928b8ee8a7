"""Generative hosts: encoder-decoder and decoder-only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList

from nacre.documents import shown
from nacre.errors import DataError, ModelError
from nacre.functional.label_search import label_log_probabilities, most_likely_labels
from nacre.functional.losses import IGNORED
from nacre.models.architectures import config_of
from nacre.models.batch import Batch
from nacre.models.chunks import chunked
from nacre.models.conversations import Chat, Piece, check_conversations, without_oldest
from nacre.models.families import WHOLE, Encoded, Family, Lengths, Tokenizer, read_size
from nacre.models.label_passes import LabelReading, read_as_prompt, read_by_encoder, read_whole, takes_tree
from nacre.models.label_tree import Labels, LabelTree, tree_of
from nacre.models.sampling import Sampling, SeededDraws
from nacre.models.seam import joint_of, special_texts
from nacre.models.vocabulary import embeddings_of, padding_of
from nacre.tasks.task import Task
from nacre.tasks.template import Example, Turn

LOGITS_AT_ONCE = 2**26
"""How many logits a pass over all labels may make: a quarter of a GiB in float32."""


class Generative(Family):
    """Families whose answers are written, greedily, token after token.

    They can learn every task, and learn nothing themselves: all that is trained is the adapter's.

    Attributes:
        end: The token that ends an answer.
    """

    is_generative = True
    prefix_at = 0

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer, head=None)
        self.end = _end_token(model, tokenizer)
        _own_ends(model)  # refused now, not when something is written

    @property
    def decoding(self) -> str:
        """Greedy."""
        return "free, greedy"

    @property
    def label_decoding(self) -> str:
        """By the labels' likelihoods."""
        return "of the task's labels, the one with the largest summed log-probability of tokens and end token"

    @property
    def pad(self) -> int:
        """The tokenizer's, or its end token."""
        return padding_of(self.model, self.tokenizer, instead=self.end)

    @abstractmethod
    def target_ids(self, example: Example) -> list[int]:
        """Token ids of the target, without an end token."""

    @abstractmethod
    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        """The newly written ids of `generate`'s output. prompts: its `input_ids`."""

    @abstractmethod
    def reading(self, prompts: Batch, tree: LabelTree) -> LabelReading:
        """The batch, read once, with what may follow each node of the tree."""

    @final
    def spelling(self, example: Example) -> str:
        """The target's tokens as text, without special ones."""
        return self.text(self.encode_target(example, WHOLE))

    @final
    def is_cut(self, target: Sequence[int]) -> bool:
        """Whether no end token is left of it."""
        return self._ends.isdisjoint(target)

    def prompts(self, rows: Sequence[Encoded]) -> Batch:
        """The rows' inputs, padded."""
        return self._prompts(rows)

    @contextmanager
    def generation(self, settings: GenerationConfig) -> Iterator[GenerationConfig]:
        """Settings for the model's `generate`; inside, they are the model's own too.

        `generate` takes from those whatever the ones it is given leave open, such as penalties for repetition or forced
        tokens.
        """
        model: Any = self.model
        own = model.generation_config
        model.generation_config = settings
        try:
            yield settings
        finally:
            model.generation_config = own

    def greedy(self, max_new_tokens: int) -> GenerationConfig:
        """Settings to write greedily, at most so many tokens."""
        # Built anew: a host's own generation settings may sample, search beams or forbid repetition.
        own: Any = self.model.generation_config
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.pad,
            eos_token_id=sorted(self._ends),
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
            use_cache=self.ways.cached,
        )

    @final
    def samples(self, prompts: Batch, sampling: Sampling, seeds: Sequence[int]) -> list[str]:
        """Sampled answers to a batch that `prompts` made. See `Host.sample`.

        Args:
            prompts: On the model's device.
            sampling: How tokens are drawn.
            seeds: One for each row: its draws depend on nothing else.
        """
        draws = LogitsProcessorList([SeededDraws(sampling, seeds)])
        with self.routed(prompts), self.generation(self.greedy(sampling.max_new_tokens)) as settings:
            generated = self.model.generate(**prompts, generation_config=settings, logits_processor=draws)  # type: ignore[operator]
        return [self.text(ids) for ids in self.written(generated, prompts["input_ids"])]

    def _with_end(self, target: list[int], lengths: Lengths) -> tuple[int, ...]:
        """A target with its end token, as long as a target may be."""
        if not self._is_ended(target):
            target = [*target, self.end]
        return tuple(target[: lengths.target])

    def _is_ended(self, target: Sequence[int]) -> bool:
        """Whether a target that was not cut ends itself."""
        return bool(target) and target[-1] == self.end

    def _answers(self, prompts: Batch, max_new_tokens: int) -> list[str]:
        with self.generation(self.greedy(max_new_tokens)) as settings:
            generated = self.model.generate(**prompts, generation_config=settings)  # type: ignore[operator]
        return [self.text(ids) for ids in self.written(generated, prompts["input_ids"])]

    def _passes(self, prompts: Batch, labels: Labels) -> Iterator[Batch]:
        """The batch, or, where every label is a sequence of its own, parts of it that fit into memory."""
        tree, size, width = tree_of(labels), prompts.size, prompts["input_ids"].shape[1]
        if not takes_tree(self.model, tree, width):
            steps = len(tree.labels) * (max(map(len, tree.labels)) + (0 if self.ways.labels_cached else width))
            size = max(1, LOGITS_AT_ONCE // (steps * embeddings_of(self.model)))
        for start in range(0, prompts.size, size):
            yield prompts.rows(start, start + size)

    def _classify(self, prompts: Batch, labels: Labels) -> list[int | None]:
        """By the sum of log-probabilities of the label's tokens, its end token included.

        It is not divided by their number: that would not be a probability, and would favor long labels whose ends are
        certain.
        """
        tree, device = tree_of(labels), prompts["input_ids"].device
        tokens, destinations = (table.to(device) for table in tree.continuations)
        best = most_likely_labels(self.reading(prompts, tree), prompts.size, tokens, destinations, len(labels))
        chosen: list[int | None] = best.tolist()
        return chosen

    def _label_scores(self, prompts: Batch, labels: Labels) -> Tensor:
        tree, device = tree_of(labels), prompts["input_ids"].device
        tokens, _ = tree.continuations
        return label_log_probabilities(
            self.reading(prompts, tree), prompts.size, tokens.to(device), tree.paths.to(device), LOGITS_AT_ONCE
        )

    @property
    def _ends(self) -> set[int]:
        """The tokens at which generation stops."""
        return {self.end, *_own_ends(self.model)}


@final
class EncoderDecoder(Generative):
    """T5, BART and their kin: the encoder reads the input, the decoder writes the target."""

    name = "encoder-decoder"
    padding_side = "right"

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        # mBART's writes a language behind the end token, which is then not the last one.
        self._ends_itself = self.end in tokenizer(text_target="")["input_ids"]
        self._check_start()

    @property
    def start(self) -> int:
        """The token that the decoder begins with, in training and in answers."""
        own: Any = self.model.generation_config
        start = own.bos_token_id if own.decoder_start_token_id is None else own.decoder_start_token_id
        if start is None:
            raise _no_start()
        self._check_number(start)
        return int(start)

    def _first_in_training(self) -> int | None:
        """The token that the model itself would put in front of a target; None if it does not know one."""
        model: Any = self.model
        if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
            first: int | None = getattr(model.config, "decoder_start_token_id", None)
            return first
        target = torch.tensor([self._with_end(self.target_ids(Example("", "", "", "a")), Lengths())])
        try:
            return int(model.prepare_decoder_input_ids_from_labels(labels=target)[0, 0])
        except (TypeError, ValueError):  # mBART's shift needs no such setting, BART's and T5's do
            return None

    def _check_start(self) -> None:
        """Check that the model begins its own training with the token that answers begin with.

        Raises:
            ModelError: If it does not, or if it has no embedding for that token.
        """
        model: Any = self.model
        self._check_number(getattr(model.config, "decoder_start_token_id", None))
        first = self._first_in_training()
        if first is None and model.generation_config.decoder_start_token_id is None:
            raise _no_start()
        if first is not None and first != self.start:
            trained, answered = self.tokenizer.convert_ids_to_tokens([first, self.start])
            raise ModelError(
                f"In training the decoder begins with '{trained}' ({first}), in answers with '{answered}' "
                f"({self.start}): set model.generation_config.decoder_start_token_id, or the tokenizer's target "
                "language, so that both are the same."
            )

    def _check_number(self, start: Any) -> None:
        rows = int(config_of(self.model).get_text_config(decoder=True).vocab_size)
        if start is None or (isinstance(start, int) and 0 <= start < rows):
            return
        raise ModelError(f"decoder_start_token_id is {shown(start)}, and the decoder has embeddings for {rows} only.")

    def _is_ended(self, target: Sequence[int]) -> bool:
        return self._ends_itself or super()._is_ended(target)

    def check(self, task: Task) -> None:
        """Check that the task has targets and no conversations."""
        if task.kind == "text":
            self.text_rows([], Lengths())
        if task.conversations:
            raise self.no_conversations()

    def source_ids(self, text: str) -> list[int]:
        """Token ids of a text, its end token included."""
        return list(self.tokenizer(text)["input_ids"])

    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of an input and its target."""
        if example.turns:
            raise self.no_conversations()
        return self._encode_parts(example, lengths)

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        """Token ids of the target and its end token."""
        return self._with_end(self.target_ids(example), lengths)

    def text_rows(self, texts: Sequence[str], lengths: Lengths, task: str = "") -> list[Encoded]:
        """Text without a target is not learned: there is no span corruption."""
        raise DataError(
            f"Unlabeled text cannot be learned by an {self.name} host: take an encoder-only model (masked tokens) or a "
            "decoder-only one (next tokens)."
        )

    def cue(self, example: Example) -> str:
        """A target's tokens depend on nothing else."""
        return ""

    def reserved(self, lengths: Lengths) -> int:
        """None: the decoder has positions of its own."""
        return 0

    def target_ids(self, example: Example) -> list[int]:
        """Token ids of the target alone."""
        return list(self.tokenizer(text_target=example.target)["input_ids"])

    def batch(self, rows: Sequence[Encoded]) -> Batch:
        """Also `decoder_input_ids` [B, T]: the labels, one step late."""
        # Not rounded up: a label is a few tokens, and the decoder would write twice as many for nothing.
        labels = self._padded([row.target for row in rows], IGNORED, max(len(row.target) for row in rows))
        # The decoder reads the target one step late, behind the token that answers begin with, too. Not every model can
        # shift labels (NLLB's cannot), and mBART's takes the last token to the front, which a cut target has lost.
        started = torch.cat([torch.full_like(labels[:, :1], self.start), labels[:, :-1]], 1)
        shifted = started.masked_fill(started == IGNORED, self.pad)
        return self.prompts(rows).extended(decoder_input_ids=shifted, labels=labels)

    def size(self, batch: Batch) -> tuple[int, int]:
        """Tokens of inputs and targets."""
        read, with_padding = read_size(batch)
        return read + int((batch["labels"] != IGNORED).sum()), with_padding + batch["labels"].numel()

    def _predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return model(**inputs, use_cache=False).logits, batch["labels"]

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        """All of it: the decoder's tokens."""
        return generated

    def reading(self, prompts: Batch, tree: LabelTree) -> LabelReading:
        """By the encoder, once, or with every label."""
        return read_by_encoder(self.model, prompts, tree, self.start, once=self.ways.labels_cached)


@final
class DecoderOnly(Generative):
    """Llama, GPT-2 and their kin: the target continues the input, and only it is learned.

    Attributes:
        separates_texts: Whether the tokenizer puts a token of its own between two texts; otherwise the end token stands
            there.
    """

    name = "decoder-only"
    padding_side = "left"

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        self._special = special_texts(tokenizer)
        self.separates_texts: bool = len(tokenizer("")["input_ids"]) > 0

    def check(self, task: Task) -> None:
        """Check that the chat template takes the task's conversations; every other task can be learned."""
        if task.conversations:
            check_conversations(Chat(self.tokenizer), task)

    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of an input and its target, or of a conversation."""
        return self._conversation(example, lengths) if example.turns else self._encode_parts(example, lengths)

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        """Token ids of the target, behind its cue, and its end token."""
        if not example.turns:
            return self._with_end(self.target_ids(example), lengths)
        return self._last_answer(self._pieces(example, example.turns)[1][-1], lengths)

    def source_ids(self, text: str) -> list[int]:
        """Token ids of a text that goes on."""
        ids = list(self.tokenizer(text)["input_ids"])
        # Some tokenizers close every text with an end token; a prompt must stay open. One that the text itself ends
        # with stays (DialoGPT's turns do).
        if len(ids) > 1 and ids[-1] == self.end and ids.count(self.end) > self._bare(text).count(self.end):
            return ids[:-1]
        return ids

    def target_ids(self, example: Example) -> list[int]:
        """Token ids of the target, behind its cue."""
        # Tokenized behind the cue, so that the answer's first token is the one that a text would have there.
        cue = self.cue(example)
        answer = joint_of(cue, example.target, self._special) + example.target
        prompt, whole = self.source_ids(cue), self.source_ids(cue + answer)
        return whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._bare(answer)

    def text_rows(self, texts: Sequence[str], lengths: Lengths, task: str = "") -> list[Encoded]:
        """Every token of a chunk but its first is to be predicted from those before it."""
        limit = self._limit(lengths, 0, task)
        chunks = chunked([self._separate(text) for text in texts], limit)
        return [Encoded(chunk[:1], chunk[1:], truncated=False, task=task) for chunk in chunks]

    def reserved(self, lengths: Lengths) -> int:
        """Those that the target takes."""
        return lengths.target

    def batch(self, rows: Sequence[Encoded]) -> Batch:
        """`input_ids` [B, S] hold inputs and targets."""
        whole = [self._read(row) + row.target for row in rows]
        width = self.width(whole)
        tensors = {
            "input_ids": self._padded(whole, self.pad, width),
            "attention_mask": self._padded([[1] * len(ids) for ids in whole], 0, width),
            "labels": self._padded(
                [[IGNORED] * len(self.prefix_of(row.task)) + _to_be_written(row) for row in rows], IGNORED, width
            ),
        }
        return Batch.of(rows, tensors)

    def size(self, batch: Batch) -> tuple[int, int]:
        """Tokens of inputs and targets."""
        return read_size(batch)

    def _predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return output.logits[:, :-1], batch["labels"][:, 1:]

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        """What stands behind the prompts."""
        return generated[:, prompts.shape[1] :]

    def cue(self, example: Example) -> str:
        """What stands in front of the target."""
        return repr(example.turns) if example.turns else example.after or example.text

    def reading(self, prompts: Batch, tree: LabelTree) -> LabelReading:
        """As a cached prompt, once, or with every label."""
        read = read_as_prompt if self.ways.labels_cached else read_whole
        return read(self.model, prompts, tree)

    def _bare(self, text: str) -> list[int]:
        """Token ids of a text without what the tokenizer adds."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _separate(self, text: str) -> list[int]:
        """Token ids of a text that others follow."""
        ids = list(self.tokenizer(text)["input_ids"])
        return ids if self.separates_texts or ids[-1:] == [self.end] else [*ids, self.end]

    def _conversation(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of a conversation.

        One that is too long loses its oldest answers first, each with the turns that led to it, and then the end of its
        last turn; the last answer, which is the target, always stays.
        """
        limit, turns = self._limit(lengths, self.reserved(lengths), example.task), example.turns
        pieces, ids = self._pieces(example, turns)
        while _size(ids[:-1]) > limit and (fewer := without_oldest(turns)) != turns:
            turns = fewer
            pieces, ids = self._pieces(example, turns)
        if _size(ids[:-1]) > limit:
            *before, last = turns

            def read(text: str) -> list[int]:
                nonlocal pieces, ids
                pieces, ids = self._pieces(example, (*before, last._replace(content=text)))
                return list(chain.from_iterable(ids[:-1]))

            _, text = self._fit(last.content, read, limit, pieces[0].text)
            turns = (*before, last._replace(content=text))
        source: list[int] = []
        earlier: list[int] = []
        for piece, part in zip(pieces[:-1], ids[:-1], strict=True):
            if piece.learned:
                earlier += range(len(source), len(source) + len(part))
            source += part
        return Encoded(
            tuple(source),
            self._last_answer(ids[-1], lengths),
            truncated=turns != example.turns,
            earlier=tuple(earlier),
            task=example.task,
            example=example,
        )

    def _pieces(self, example: Example, turns: tuple[Turn, ...]) -> tuple[list[Piece], list[list[int]]]:
        """A conversation of these turns and the example's target in pieces, and the token ids of each."""
        chat = Chat(self.tokenizer)
        pieces = chat.pieces([*turns, Turn("assistant", example.target, learned=True)])
        return pieces, chat.tokens(pieces)

    def _last_answer(self, ids: Sequence[int], lengths: Lengths) -> tuple[int, ...]:
        """With an end token behind it, unless the chat template has put one there: generation would not stop."""
        ends = () if not self._ends.isdisjoint(ids) else (self.end,)
        return (*ids, *ends)[: lengths.target]


def _to_be_written(row: Encoded) -> list[int]:
    """Token by token of a row, itself or, where it is only read, `IGNORED`."""
    labels = [IGNORED] * len(row.source)
    for place in row.earlier:
        labels[place] = row.source[place]
    return [*labels, *row.target]


def _size(parts: Sequence[Sequence[int]]) -> int:
    return sum(map(len, parts))


def _no_start() -> ModelError:
    return ModelError(
        "The model does not say what its decoder begins with: set decoder_start_token_id in its config.json, or "
        "model.generation_config.decoder_start_token_id."
    )


def _own_ends(model: nn.Module) -> set[int]:
    """The tokens at which a model's own settings end an answer."""
    own: Any = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    if not all(end is None or isinstance(end, int) for end in ends):
        raise ModelError(
            f"The model's generation settings end answers at eos_token_id = {ends!r}, which is not a number."
        )
    return {end for end in ends if end is not None}


def _end_token(model: nn.Module, tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    end = config_of(model).eos_token_id
    if isinstance(end, int):
        return end
    raise DataError(
        "The tokenizer has no end-of-sequence token, so an answer could never end: set tokenizer.eos_token."
    )
