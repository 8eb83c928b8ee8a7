"""Hosts that write their answers: encoder-decoder and decoder-only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig

from nacre.errors import DataError
from nacre.functional.label_search import most_likely_labels
from nacre.functional.losses import IGNORED
from nacre.models.chunks import chunked
from nacre.models.conversations import Chat, Piece, check_conversations, without_oldest
from nacre.models.families import Encoded, Family, Lengths, Tokenizer
from nacre.models.label_passes import Reading, read_as_prompt, read_by_encoder, takes_tree
from nacre.models.label_tree import Labels, LabelTree, tree_of
from nacre.tasks.task import Task
from nacre.tasks.template import Example, Turn

AT_ONCE = 2**26
"""How many logits a pass over all labels may make: a quarter of a GiB in float32."""


class Writing(Family):
    """Families whose answers are written, greedily, token after token. They can learn every task, and learn nothing
    themselves: all that is trained is the adapter's."""

    decoding = "free, greedy"
    choosing = "of the task's labels, the one with the largest summed log-probability of tokens and end token"
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
        """The newly written ids of ``generate``'s output. prompts: its ``input_ids``."""

    @abstractmethod
    def reading(self, prompts: dict[str, Tensor], tree: LabelTree) -> Reading:
        """The batch, read once, with what may follow each node of the tree."""

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        target = self.target_ids(example)
        if not target or target[-1] != self.end:
            target = [*target, self.end]
        return tuple(target[: lengths.target])

    def answers(self, prompts: Mapping[str, Tensor], max_new_tokens: int) -> list[str]:
        with self.greedy(max_new_tokens) as settings:
            generated = self.model.generate(**prompts, generation_config=settings)  # type: ignore[operator]
        return [self.text(ids) for ids in self.written(generated, prompts["input_ids"])]

    def choices(self, prompts: Mapping[str, Tensor], labels: Labels) -> list[int | None]:
        """By the sum of log-probabilities of the label's tokens, its end token included. Not divided by their number:
        that would be no probability, and would favour long labels whose ends are certain."""
        tree = tree_of(labels)
        chosen: list[int | None] = []
        for part in self._parts(prompts, tree):
            ids = part["input_ids"]
            tokens, destinations = (table.to(ids.device) for table in tree.ways)
            chosen += most_likely_labels(self.reading(part, tree), len(ids), tokens, destinations, len(labels)).tolist()
        return chosen

    def check(self, task: Task) -> None:
        """Every task can be written."""

    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str] = ()) -> None:
        """Nothing has to be opened."""

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return ()

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def values(self) -> dict[str, Any]:
        return {}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """There is nothing to take over or to forget."""

    def _parts(self, prompts: Mapping[str, Tensor], tree: LabelTree) -> Iterator[dict[str, Tensor]]:
        """The batch, or, where every label is a sequence of its own, parts of it that fit into memory."""
        size, width = prompts["input_ids"].shape
        if not takes_tree(self.model, tree, width):
            steps = len(tree.labels) * max(map(len, tree.labels))
            config: Any = self.model.config
            size = max(1, AT_ONCE // (steps * int(config.vocab_size)))
        for start in range(0, len(prompts["input_ids"]), size):
            yield {name: tensor[start : start + size] for name, tensor in prompts.items()}

    @property
    def _ends(self) -> set[int]:
        """The tokens at which generation stops."""
        own: Any = self.model.generation_config
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        return {self.end, *(end for end in ends if end is not None)}

    @contextmanager
    def greedy(self, max_new_tokens: int) -> Iterator[GenerationConfig]:
        """Settings with which the model's ``generate`` writes greedily; inside, they are the model's own too."""
        settings = self._greedy(max_new_tokens)
        with _generation_settings(self.model, settings):
            yield settings

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
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
        )


class EncoderDecoder(Writing):
    """T5, BART and their kin: the encoder reads the input, the decoder writes the target."""

    name = "encoder-decoder"
    padding_side = "right"

    def check(self, task: Task) -> None:
        """Every answer can be written; text without a target is not learnt (span corruption is not there), nor are
        conversations."""
        if task.kind == "text":
            self.text_rows([], Lengths())
        if task.conversations:
            raise self.no_conversations()

    def source_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def target_ids(self, example: Example) -> list[int]:
        return list(self.tokenizer(text_target=example.target)["input_ids"])

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        # Not rounded up: a label is a few tokens, and the decoder would write twice as many for nothing.
        labels = self._padded([row.target for row in rows], IGNORED, max(len(row.target) for row in rows))
        # The decoder reads the target one step late, behind its start token; the model knows how (T5 and BART differ).
        shifted = self.model.prepare_decoder_input_ids_from_labels(labels=labels)  # type: ignore[operator]
        return {**self.prompts(rows), "decoder_input_ids": shifted, "labels": labels}

    def size(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        read, with_padding = super().size(batch)
        return read + int((batch["labels"] != IGNORED).sum()), with_padding + batch["labels"].numel()

    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return model(**inputs, use_cache=False).logits, batch["labels"]

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        return generated

    def reading(self, prompts: dict[str, Tensor], tree: LabelTree) -> Reading:
        own: Any = self.model.generation_config
        start = own.bos_token_id if own.decoder_start_token_id is None else own.decoder_start_token_id
        return read_by_encoder(self.model, prompts, tree, start)


class DecoderOnly(Writing):
    """Llama, GPT-2 and their kin: the target continues the input, and only it is learnt."""

    name = "decoder-only"
    padding_side = "left"

    def check(self, task: Task) -> None:
        """Every task can be written; conversations need a chat template that takes them."""
        if task.conversations:
            check_conversations(Chat(self.tokenizer), task)

    def encode(self, example: Example, lengths: Lengths) -> Encoded:
        return self._conversation(example, lengths) if example.turns else super().encode(example, lengths)

    def encode_target(self, example: Example, lengths: Lengths) -> tuple[int, ...]:
        if not example.turns:
            return super().encode_target(example, lengths)
        return self._last_answer(self._said(example, example.turns)[1][-1], lengths)

    def source_ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text)["input_ids"])
        # Some tokenizers close every text with an end token; a prompt must stay open.
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.end else ids

    def target_ids(self, example: Example) -> list[int]:
        # Tokenized behind the cue, so that the answer's first token is the one that a text would have there.
        cue = self.cue(example)
        # One space joins them, unless either brings white space of its own (TRL's completions begin with it).
        joint = "" if cue[-1:].isspace() or example.target[:1].isspace() else " "
        prompt, whole = self.source_ids(cue), self.source_ids(cue + joint + example.target)
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        return list(self.tokenizer(joint + example.target, add_special_tokens=False)["input_ids"])

    def text_rows(self, texts: Sequence[str], lengths: Lengths) -> list[Encoded]:
        """Every token of a chunk but its first is to be predicted from those before it."""
        limit = min(lengths.source, getattr(self.model.config, "max_position_embeddings", lengths.source))
        chunks = chunked([list(self.tokenizer(text)["input_ids"]) for text in texts], limit)
        return [Encoded(chunk[:1], chunk[1:], truncated=False) for chunk in chunks]

    def reserved(self, lengths: Lengths) -> int:
        return lengths.target

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        whole = [row.source + row.target for row in rows]
        width = self.width(whole)
        return {
            "input_ids": self._padded(whole, self.pad, width),
            "attention_mask": self._padded([[1] * len(ids) for ids in whole], 0, width),
            "labels": self._padded([_to_be_written(row) for row in rows], IGNORED, width),
        }

    def predictions(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return output.logits[:, :-1], batch["labels"][:, 1:]

    def written(self, generated: Tensor, prompts: Tensor) -> Tensor:
        return generated[:, prompts.shape[1] :]

    def cue(self, example: Example) -> str:
        return repr(example.turns) if example.turns else example.after or example.text

    def reading(self, prompts: dict[str, Tensor], tree: LabelTree) -> Reading:
        return read_as_prompt(self.model, prompts, tree)

    def _conversation(self, example: Example, lengths: Lengths) -> Encoded:
        """Token ids of a conversation. One that is too long loses its oldest answers first, each with what led to it,
        and then the end of what was said last; the last answer, which is the target, always stays."""
        limit, turns = self.source_limit(lengths), example.turns
        pieces, ids = self._said(example, turns)
        while _size(ids[:-1]) > limit and (fewer := without_oldest(turns)) != turns:
            turns = fewer
            pieces, ids = self._said(example, turns)
        if _size(ids[:-1]) > limit:
            *before, last = turns

            def read(text: str) -> list[int]:
                nonlocal pieces, ids
                pieces, ids = self._said(example, (*before, last._replace(content=text)))
                return list(chain.from_iterable(ids[:-1]))

            _, text = self._fit(last.content, read, limit, pieces[0].text)
            turns = (*before, last._replace(content=text))
        source: list[int] = []
        earlier: list[int] = []
        for piece, part in zip(pieces[:-1], ids[:-1], strict=True):
            if piece.learnt:
                earlier += range(len(source), len(source) + len(part))
            source += part
        return Encoded(
            tuple(source),
            self._last_answer(ids[-1], lengths),
            truncated=turns != example.turns,
            earlier=tuple(earlier),
            task=example.task,
        )

    def _said(self, example: Example, turns: tuple[Turn, ...]) -> tuple[list[Piece], list[list[int]]]:
        """A conversation of these turns and the example's target in pieces, and the token ids of each."""
        chat = Chat(self.tokenizer)
        pieces = chat.pieces([*turns, Turn("assistant", example.target, learnt=True)])
        return pieces, chat.tokens(pieces)

    def _last_answer(self, ids: Sequence[int], lengths: Lengths) -> tuple[int, ...]:
        """With an end token behind it, unless the chat template has put one there: generation would not stop."""
        ends = () if not self._ends.isdisjoint(ids) else (self.end,)
        return (*ids, *ends)[: lengths.target]


def _to_be_written(row: Encoded) -> list[int]:
    """Token by token of a row, itself or, where it is only read, ``IGNORED``."""
    labels = [IGNORED] * len(row.source)
    for place in row.earlier:
        labels[place] = row.source[place]
    return [*labels, *row.target]


def _size(parts: Sequence[Sequence[int]]) -> int:
    return sum(map(len, parts))


@contextmanager
def _generation_settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Let the model's own settings be these: ``generate`` takes from them whatever the ones it is given leave open,
    such as penalties for repetition or forced tokens."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _end_token(model: nn.Module, tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    end = model.config.eos_token_id  # type: ignore[union-attr]
    if isinstance(end, int):
        return end
    raise DataError(
        "The tokenizer has no end-of-sequence token, so an answer could never end: set tokenizer.eos_token."
    )
