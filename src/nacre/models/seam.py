"""Where a prompt ends and its answer begins: whether a space stands between them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Any

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "THAI", "LAO", "KHMER", "MYANMAR")
"""Beginnings of the Unicode names of characters that stand in text without spaces around them."""


def special_texts(tokenizer: Any) -> frozenset[str]:
    """How a tokenizer's special tokens are written, such as `<|assistant|>`."""
    return frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def joint_of(prompt: str, answer: str, special: Collection[str]) -> str:
    """What stands between a prompt and its answer: one space, as between words.

    Nothing, where either brings white space of its own (TRL's completions begin with it), between characters that are
    written without spaces, and behind a prompt with special tokens: whoever wrote them wrote the whole prompt.

    Args:
        prompt: What the answer continues.
        answer: The answer.
        special: The tokenizer's special tokens as text.
    """
    before, after = prompt[-1:], answer[:1]
    if not before or before.isspace() or after.isspace() or _is_unspaced(before) or _is_unspaced(after):
        return ""
    return "" if any(token in prompt for token in special) else " "


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED) if character else False
