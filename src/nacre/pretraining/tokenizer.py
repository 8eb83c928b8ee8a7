"""The tokenizer of a pretraining: a byte-level BPE trained on its text, or one that is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nacre.errors import ModelError, RecipeError
from nacre.pretraining.settings import PretrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PAD, _EOS, _UNK, _BOS = "<pad>", "</s>", "<unk>", "<s>"


def train_tokenizer(texts: Sequence[str], settings: PretrainSettings) -> PreTrainedTokenizerBase:
    """A byte-level BPE of `settings.vocabulary` entries, as a fast tokenizer of transformers.

    Any text survives encoding and decoding up to case (with `lowercase`) and outer blanks. For span corruption `</s>`
    is appended to every text, as T5 does; for causal models `<s>` is put in front, as Llama does. Sentinels, which only
    span corruption has, are single tokens.

    Args:
        texts: Training texts.
        settings: Objective, vocabulary, sentinels, case.

    Raises:
        RecipeError: The vocabulary is too small for bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": _PAD, "eos_token": _EOS, "unk_token": _UNK}
    if settings.objective == "span_corruption":
        sentinels = [_sentinel(number) for number in range(settings.sentinels)]
        layout, added = f"$A {_EOS}", _EOS
    else:
        special["bos_token"] = _BOS
        sentinels = []
        layout, added = f"{_BOS} $A", _BOS
    whole = [*special.values(), *sentinels]  # single tokens, whatever the text
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if settings.vocabulary < len(whole) + len(alphabet):
        raise RecipeError(
            f"vocabulary: {settings.vocabulary} is less than the {len(alphabet)} bytes and {len(whole)} special "
            "tokens that every vocabulary holds."
        )
    tokenizer = Tokenizer(models.BPE())
    if settings.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    # A leading blank makes a word the same token at the start of a text (an answer) and within it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary, special_tokens=whole, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=layout, special_tokens=[(added, tokenizer.token_to_id(added))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=sentinels,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **special,
    )


def load_tokenizer(folder: Path, settings: PretrainSettings) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Args:
        folder: Written by transformers.
        settings: Say which tokens are needed.

    Raises:
        ModelError: It cannot be loaded, or lacks tokens that the objective needs.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no tokenizer that transformers can load ({error}).") from None
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise ModelError(f"The tokenizer in {folder} has no eos or no pad token; training needs both.")
    if settings.objective == "span_corruption" and not sentinel_ids(tokenizer):
        raise ModelError(f"The tokenizer in {folder} has no <extra_id_0>; span corruption needs sentinel tokens.")
    return tokenizer


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of `<extra_id_0>`, `<extra_id_1>` and so on, up to the first that the tokenizer lacks."""
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    while (name := _sentinel(len(ids))) in vocabulary:
        ids.append(vocabulary[name])
    return ids


def _sentinel(number: int) -> str:
    return f"<extra_id_{number}>"
