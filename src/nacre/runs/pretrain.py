"""A tiny language model from scratch, on any text: the function behind ``nacre pretrain``.

It exists for two reasons: the demo's embedded model can be made again by anyone, and experiments on small machines
have a host whose every training text is known. It is no way to a good general model.

Two objectives. ``span_corruption``: T5's (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4): random spans are
replaced by sentinel tokens and the decoder writes them; a share of the passages is trained as prefix and
continuation instead (the prefix language model of section 3.2.1), so that the decoder also learns to write without
sentinels.
``causal``: next-token prediction with a Llama.
"""

from __future__ import annotations

import math
import random
import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nacre.errors import DataError, ModelError, RecipeError
from nacre.files import build_folder, write_atomically
from nacre.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Objective = Literal["span_corruption", "causal"]
OBJECTIVES: tuple[Objective, ...] = ("span_corruption", "causal")

_PAD, _EOS, _UNK, _BOS = "<pad>", "</s>", "<unk>", "<s>"
_IGNORED = -100  # the label value that the loss of transformers leaves out
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.05, 256


@dataclass(frozen=True)
class PretrainSettings:
    """Every setting of a pretraining; the defaults are those of the embedded model.

    d_model, layers, decoder_layers, heads, d_ff: the architecture; ``layers`` counts the encoder's (or a causal
        model's), ``decoder_layers`` belongs to span corruption only. The feed-forward is gated, embeddings are tied.
    vocabulary: entries of the tokenizer, when one is trained: bytes, special tokens, sentinels and merges.
    sentinels: how many ``<extra_id_n>`` the trained tokenizer has.
    lowercase: whether the trained tokenizer lower-cases its input; a small vocabulary reaches further so.
    length: most tokens of a passage; longer ones are cut into windows.
    mask_share, mean_span: share of a passage's tokens that is masked, and mean tokens per span.
    continuation: share of the passages trained as prefix and continuation (span corruption only).
    learning_rate: the peak, relative to each parameter tensor's root mean square at the start, see ``_groups``.
    warmup: share of the steps with a rising rate; afterwards it falls to zero along a cosine.
    threads: of torch, during the training; the weights depend on it in the last bits.
    """

    objective: Objective = "span_corruption"
    d_model: int = 128
    layers: int = 2
    decoder_layers: int = 2
    heads: int = 4
    d_ff: int = 256
    vocabulary: int = 1500
    sentinels: int = 32
    lowercase: bool = True
    length: int = 64
    mask_share: float = 0.2
    mean_span: float = 1.5
    continuation: float = 0.4
    steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 0.02
    warmup: float = 0.05
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise RecipeError(f"objective: '{self.objective}' is unknown. Known: {', '.join(OBJECTIVES)}.")
        counts = ("d_model", "layers", "decoder_layers", "heads", "d_ff", "sentinels", "steps", "batch_size", "threads")
        for name in counts:
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: {getattr(self, name)} is a count and must be at least 1.")
        if self.d_model % (2 * self.heads):
            raise RecipeError(
                f"d_model: {self.d_model} is not a multiple of twice the number of heads ({self.heads}); "
                "every head needs an even width."
            )
        if self.length < 8:
            raise RecipeError(f"length: {self.length} is less than 8 tokens, too few to mask spans in.")
        if not 0 < self.mask_share < 1:
            raise RecipeError(f"mask_share: {self.mask_share} is not in (0, 1); it is the share of masked tokens.")
        if self.mean_span < 1:
            raise RecipeError(f"mean_span: {self.mean_span} is less than one token.")
        for name in ("continuation", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name}: {getattr(self, name)} is not in [0, 1]; it is a share.")
        if not 0 < self.learning_rate < 1:
            raise RecipeError(f"learning_rate: {self.learning_rate} is not in (0, 1); it is relative, 0.02 is usual.")


@dataclass(frozen=True)
class PretrainResult:
    """What came of it: mean loss per target token on held-out passages, in nats, and what it took."""

    loss_before: float
    loss_after: float
    parameters: int
    passages: int
    held_out: int
    seconds: float


Progress = Callable[[int, int, float | None], None]
"""Called with steps done, steps in all, and the training loss where it was read (every 50 steps)."""


def pretrain(
    passages: Sequence[str],
    output: Path,
    settings: PretrainSettings,
    *,
    source: str,
    command: Sequence[str] = (),
    tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> PretrainResult:
    """Train a model on ``passages`` and write a folder that transformers loads, with a model card, atomically.

    passages: texts that belong together, a paragraph each (``read_passages``). A twentieth, at most 256, is held out.
    source: where the passages came from, one line for the card. command: what was typed, for the card.
    tokenizer: a folder with a tokenizer to use instead of training one.
    Deterministic for given passages, settings and versions. Raises ``DataError`` for too little text, ``ModelError``
    for an unusable tokenizer or output.
    """
    if output.exists() and not output.is_dir():
        raise ModelError(f"{output} is a file; the output must be a folder, new or to be replaced.")
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").exists():
        raise ModelError(f"{output} holds other things than a model; name a new folder or one made by this command.")
    texts = [text.strip() for text in passages if text.strip()]
    if not texts:
        raise DataError(f"There is no text to learn from in {source}; give at least a few paragraphs.")
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        words = load_tokenizer(tokenizer, settings) if tokenizer else train_tokenizer(texts, settings)
        train, held_out = _split(_windows(texts, words, settings), settings, source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(settings.seed, "pretrain", "weights"))
            model = new_model(words, settings)
            maker = _Batches(words, settings)
            before = _loss_on(model, maker, held_out)
            _train(model, maker, train, progress)
            after = _loss_on(model, maker, held_out)
    finally:
        torch.set_num_threads(threads)
    if not math.isfinite(after):
        raise ModelError(f"The loss became {after}; a smaller learning_rate than {settings.learning_rate} may help.")
    result = PretrainResult(
        loss_before=before,
        loss_after=after,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        passages=len(train),
        held_out=len(held_out),
        seconds=time.perf_counter() - started,
    )

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        write_atomically(folder / "README.md", _card(settings, result, source, command))

    build_folder(output, fill)
    return result


def read_passages(files: Sequence[Path]) -> list[str]:
    """The paragraphs of text files in UTF-8: what stands between empty lines, in order."""
    if not files:
        raise DataError("No text files were given; name at least one, or ask for the demo's text with --demo.")
    passages: list[str] = []
    for file in files:
        if not file.is_file():
            raise DataError(f"{file} is not a file; name text files in UTF-8.")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not text in UTF-8 (byte {error.start}); convert it first.") from None
        passages += list(_paragraphs(lines))
    if not passages:
        raise DataError(f"There is no text in {', '.join(map(str, files))}; give at least a few paragraphs.")
    return passages


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []


# The tokenizer


def train_tokenizer(texts: Sequence[str], settings: PretrainSettings) -> PreTrainedTokenizerBase:
    """A byte-level BPE of ``settings.vocabulary`` entries, as a fast tokenizer of transformers.

    Any text survives encoding and decoding up to case and outer blanks. For span corruption ``</s>`` is appended to
    every text, as T5 does; for causal models ``<s>`` is put in front, as Llama does. Sentinels are single tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    encoder_decoder = settings.objective == "span_corruption"
    sentinels = [f"<extra_id_{number}>" for number in range(settings.sentinels)] if encoder_decoder else []
    special = [_PAD, _EOS, _UNK, *([] if encoder_decoder else [_BOS]), *sentinels]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if settings.vocabulary < len(special) + len(alphabet):
        raise RecipeError(
            f"vocabulary: {settings.vocabulary} is less than the {len(alphabet)} bytes and {len(special)} special "
            "tokens that every vocabulary holds."
        )
    tokenizer = Tokenizer(models.BPE())
    if settings.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    # A leading blank makes a word the same token at the start of a text (an answer) and within it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    added = _EOS if encoder_decoder else _BOS
    single = f"$A {_EOS}" if encoder_decoder else f"{_BOS} $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(added, tokenizer.token_to_id(added))]
    )
    fast: Any = PreTrainedTokenizerFast  # untyped in transformers
    made: PreTrainedTokenizerBase = fast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_EOS,
        unk_token=_UNK,
        **({} if encoder_decoder else {"bos_token": _BOS}),
        additional_special_tokens=sentinels,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    return made


def load_tokenizer(folder: Path, settings: PretrainSettings) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``, or ``ModelError`` where it has not what the objective needs."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no tokenizer that transformers can load ({error}).") from None
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise ModelError(f"The tokenizer in {folder} has no eos or no pad token; training needs both.")
    if settings.objective == "span_corruption" and not _sentinel_ids(tokenizer):
        raise ModelError(f"The tokenizer in {folder} has no <extra_id_0>; span corruption needs sentinel tokens.")
    return tokenizer


def _sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    while (name := f"<extra_id_{len(ids)}>") in vocabulary:
        ids.append(vocabulary[name])
    return ids


# The model


def new_model(tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings) -> PreTrainedModel:
    """A freshly initialized T5 (gated feed-forward) or Llama; both with tied embeddings and no dropout."""
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if settings.objective == "span_corruption":
        return T5ForConditionalGeneration(
            T5Config(
                d_model=settings.d_model,
                d_kv=settings.d_model // settings.heads,
                d_ff=settings.d_ff,
                num_layers=settings.layers,
                num_decoder_layers=settings.decoder_layers,
                num_heads=settings.heads,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                **common | {"decoder_start_token_id": tokenizer.pad_token_id},
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=settings.d_model,
            intermediate_size=settings.d_ff,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=512,
            initializer_range=settings.d_model**-0.5,  # Llama's 0.02 is meant for widths in the thousands
            bos_token_id=tokenizer.bos_token_id,
            **common,
        )
    )


# The batches


def _windows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings) -> list[list[int]]:
    """Token ids of every passage, without special tokens, cut into windows of at most ``length``."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [ids[start : start + settings.length] for ids in encoded for start in range(0, len(ids), settings.length)]


def _split(
    windows: list[list[int]], settings: PretrainSettings, source: str
) -> tuple[list[list[int]], list[list[int]]]:
    """Windows to train on, and held-out ones; a window too short to mask a token in is left out of both."""
    usable = [window for window in windows if len(window) >= 2]
    if len(usable) < 2:
        raise DataError(
            f"{source} holds too little text: {len(usable)} passages of at least two tokens; two are needed, "
            "one to learn from and one to measure on."
        )
    count = max(1, min(_HELD_OUT_MOST, int(len(usable) * _HELD_OUT_SHARE)))
    chosen = set(random.Random(derive(settings.seed, "pretrain", "held out")).sample(range(len(usable)), count))
    train = [window for index, window in enumerate(usable) if index not in chosen]
    return train, [usable[index] for index in sorted(chosen)]


class _Batches:
    """From windows of token ids to the tensors of a batch; a function of the windows and a random generator."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings) -> None:
        self.settings = settings
        self.pad: int = tokenizer.pad_token_id
        self.eos: int = tokenizer.eos_token_id
        self.bos: int | None = tokenizer.bos_token_id
        self.sentinels = _sentinel_ids(tokenizer)
        starts = {ids for token, ids in tokenizer.get_vocab().items() if token[:1] in ("Ġ", "▁", "Ċ")}
        self.word_starts = starts

    def make(self, windows: Sequence[list[int]], rng: random.Random) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward: input_ids, attention_mask, labels, each [batch, tokens]."""
        if self.settings.objective == "causal":
            front = [] if self.bos is None else [self.bos]
            inputs = [[*front, *window, self.eos] for window in windows]
            targets = inputs
        else:
            pairs = [self.pair(window, rng) for window in windows]
            inputs, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        mask = [[1] * len(ids) for ids in inputs]
        return {
            "input_ids": _padded(inputs, self.pad),
            "attention_mask": _padded(mask, 0),
            "labels": _padded(targets, _IGNORED),
        }

    def pair(self, window: list[int], rng: random.Random) -> tuple[list[int], list[int]]:
        """Input and target of one passage, both ended by ``</s>``."""
        if rng.random() < self.settings.continuation:
            # Half of the cuts stand before the last word, where a text has most of its context.
            starts = [at for at in range(1, len(window)) if window[at] in self.word_starts] or [len(window) - 1]
            cut = starts[-1] if rng.random() < 0.5 else rng.choice(starts)
            return [*window[:cut], self.eos], [*window[cut:], self.eos]
        inputs: list[int] = []
        targets: list[int] = []
        masked = masked_tokens(len(window), self.settings.mask_share, self.settings.mean_span, rng)
        sentinels = iter(self.sentinels)
        inside = False
        for token, hidden in zip(window, masked, strict=True):
            if hidden and not inside:
                sentinel = next(sentinels, None)
                if sentinel is None:  # out of sentinels: the rest stays as it is
                    inputs.append(token)
                    continue
                inputs.append(sentinel)
                targets.append(sentinel)
            (targets if hidden else inputs).append(token)
            inside = hidden
        return [*inputs, self.eos], [*targets, self.eos]


def masked_tokens(length: int, share: float, mean_span: float, rng: random.Random) -> list[bool]:
    """Which of ``length`` tokens are masked: spans of random lengths, apart from one another, never everything.

    The number of masked tokens and of spans is fixed by the length, as in T5; only the places are random, and unlike
    there a text may begin or end with either kind. At least one token is masked and one is kept; length >= 2.
    """
    masked = min(max(round(length * share), 1), length - 1)
    spans = min(max(round(masked / mean_span), 1), masked, length - masked)
    hidden = _parts(masked, spans, rng)
    kept = _parts(length - masked + 2, spans + 1, rng)  # the two more make room for nothing at either end
    kept[0], kept[-1] = kept[0] - 1, kept[-1] - 1
    pattern = [False] * kept[0]
    for hidden_tokens, kept_tokens in zip(hidden, kept[1:], strict=True):
        pattern += [True] * hidden_tokens + [False] * kept_tokens
    return pattern


def _parts(total: int, count: int, rng: random.Random) -> list[int]:
    """``total`` as a sum of ``count`` positive numbers, every such sum equally likely."""
    cuts = [0, *sorted(rng.sample(range(1, total), count - 1)), total]
    return [after - before for before, after in pairwise(cuts)]


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


# The training


def _train(model: PreTrainedModel, maker: _Batches, windows: list[list[int]], progress: Progress | None) -> None:
    settings = maker.settings
    optimizer = torch.optim.AdamW(_groups(model, settings.learning_rate), betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    model.train()
    for step in range(settings.steps):
        rng = random.Random(derive(settings.seed, "pretrain", "batch", step))
        batch = maker.make(rng.choices(windows, k=settings.batch_size), rng)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        read = (step + 1) % 50 == 0 or step + 1 == settings.steps
        if progress:
            progress(step + 1, settings.steps, float(loss.detach()) if read else None)
    model.train(False)


def _groups(model: PreTrainedModel, relative_rate: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate follows the size of their values, to the nearest power of two.

    T5 draws its embeddings with standard deviation 1 and its maps with about 0.05. Adam's steps have the size of
    the rate, whatever the gradient: one rate for all either leaves the embeddings where they are for thousands of
    steps or shatters the maps. Adafactor's relative steps (arXiv 1804.04235, section 8) are the same remedy.
    """
    groups: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        size = max(parameter.detach().square().mean().sqrt().item(), 1e-3)
        groups[2.0 ** round(math.log2(size))].append(parameter)
    return [{"params": group, "lr": relative_rate * size} for size, group in sorted(groups.items())]


def _rate(step: int, settings: PretrainSettings) -> float:
    """The share of the peak rate at a step: linear warm-up, then a cosine to zero."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, settings.steps - warm)))


@torch.no_grad()
def _loss_on(model: PreTrainedModel, maker: _Batches, windows: list[list[int]]) -> float:
    """Mean loss per target token in nats, with the same masks whenever it is called."""
    rng = random.Random(derive(maker.settings.seed, "pretrain", "held-out masks"))
    model.train(False)
    total, tokens = 0.0, 0
    for start in range(0, len(windows), 32):
        batch = maker.make(windows[start : start + 32], rng)
        counted = batch["labels"] if maker.settings.objective == "span_corruption" else batch["labels"][:, 1:]
        count = int((counted != _IGNORED).sum())
        total += float(model(**batch).loss) * count
        tokens += count
    return total / tokens


# The card


def _card(settings: PretrainSettings, result: PretrainResult, source: str, command: Sequence[str]) -> str:
    kind = {
        "span_corruption": "An encoder-decoder (T5, gated feed-forward, tied embeddings, no dropout)",
        "causal": "A decoder-only model (Llama, tied embeddings)",
    }[settings.objective]
    table = "\n".join(f"| {name} | {value} |" for name, value in asdict(settings).items())
    typed = f"By the command\n\n```\n{shlex.join(command)}\n```\n" if command else "By `nacre.runs.pretrain`.\n"
    return f"""---
license: apache-2.0
library_name: transformers
---

# A tiny {settings.objective.replace("_", "-")} model

{kind} of {result.parameters:,} parameters,
trained from scratch by nacre to be a small host for experiments and demonstrations. It knows the words and
sentences of its training text and nothing else; do not use it for anything that matters.

## How it was made

{typed}
- Data: {source}; {result.passages:,} passages to train on, {result.held_out:,} held out.
- Held-out loss per target token, in nats: {result.loss_before:.3f} before, {result.loss_after:.3f} after training.
- Time: {result.seconds:.0f} seconds on a CPU with {settings.threads} thread{"s" if settings.threads > 1 else ""} \
(torch {torch.__version__.split("+")[0]}).

| setting | value |
|---|---|
{table}

## License

Apache-2.0, as nacre.
"""
