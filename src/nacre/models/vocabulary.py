"""Whether a tokenizer and a model belong together: every token has an embedding."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.utils import cached_file

from nacre.errors import ModelError


def embeddings_of(model: nn.Module) -> int:
    """How many tokens a model has an embedding for."""
    anything: Any = model
    return len(anything.get_input_embeddings().weight)


def padding_of(model: nn.Module, tokenizer: Any, instead: int) -> int:
    """The token that fills up short rows.

    Padding is always masked out, so that another token can stand for it where the tokenizer has none, or one that was
    added to the tokenizer alone.
    """
    padding = tokenizer.pad_token_id
    return instead if padding is None or padding >= embeddings_of(model) else int(padding)


def check_vocabulary(model: nn.Module, tokenizer: Any) -> None:
    """Check that the model has an embedding for every token but padding.

    Raises:
        ModelError: If it has fewer.
    """
    rows = embeddings_of(model)
    lent = {tokenizer.pad_token_id} - {tokenizer.eos_token_id}
    beyond = [(number, token) for token, number in tokenizer.get_vocab().items() if number >= rows]
    if homeless := sorted(entry for entry in beyond if entry[0] not in lent):
        number, token = homeless[0]
        raise ModelError(
            f"The tokenizer's token '{token}' has the number {number}, and the model has embeddings for {rows} only: "
            "take the tokenizer that belongs to the model, or model.resize_token_embeddings(len(tokenizer))."
        )


def check_tokenizer_files(name: str, source: str, tokenizer: Any) -> None:
    """Check that a tokenizer was read. transformers makes up one that knows no words where there are no files.

    Args:
        name: What the user called the model.
        source: The model's folder or Hugging Face name.
        tokenizer: As it was loaded from there.

    Raises:
        ModelError: If there is no file, or only one of two.
    """
    files = dict(type(tokenizer).vocab_files_names)
    whole = files.pop("tokenizer_file", None)
    parts = [files[part] for part in ("vocab_file", "merges_file") if part in files]
    if (whole is None and not parts) or _has(source, whole):
        return  # ByT5 needs no file
    if missing := [part for part in parts if not _has(source, part)]:
        raise ModelError(
            f"Model '{name}' has no tokenizer: {' or '.join(filter(None, (whole, ' and '.join(missing))))} is missing. "
            "Put the files of the tokenizer that it was trained with beside it (tokenizer.save_pretrained)."
        )


def _has(source: str, file: str | None) -> bool:
    return file is not None and cached_file(source, file, _raise_exceptions_for_missing_entries=False) is not None
