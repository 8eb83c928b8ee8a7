"""Where a prompt ends and its answer begins: whether a space stands between them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Any

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "THAI", "LAO", "KHMER", "MYANMAR")
"""Beginnings of the Unicode names of characters that stand in text without spaces around them."""

OPENING = ("Ps", "Pi")
"""Unicode categories of what opens: brackets and the quotes of print."""
QUOTES = frozenset("\"'`")
"""Open behind white space and behind what opens or joins; close elsewhere."""
PREFIXES = frozenset("@\\")
JOINING = frozenset("=/&^")
"""Signs that join two words where no space stands before them: `x=1` and `and/or`, but `x = 1`."""
OPERATORS = "=/&^|<>!+-*%:"
"""What such a sign may end: `+=`."""


def special_texts(tokenizer: Any) -> frozenset[str]:
    """How a tokenizer's special tokens are written, such as `<|assistant|>`."""
    return frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def joint_of(prompt: str, answer: str, special: Collection[str]) -> str:
    """What stands between a prompt and its answer: one space, as between words.

    Nothing, where either brings white space of its own (TRL's completions begin with it), between characters that are
    written without spaces, behind signs that join or open, as in code (`x=`, `f(`, `and/`), and behind a prompt with
    special tokens: whoever wrote them wrote the whole prompt.

    Args:
        prompt: What the answer continues.
        answer: The answer.
        special: The tokenizer's special tokens as text.
    """
    before, after = prompt[-1:], answer[:1]
    if not before or before.isspace() or after.isspace() or _is_unspaced(before) or _is_unspaced(after):
        return ""
    return "" if _goes_on(prompt) or any(token in prompt for token in special) else " "


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED) if character else False


def _goes_on(prompt: str) -> bool:
    """Whether the prompt ends in a sign that its next word follows without a space."""
    last, before = prompt[-1], prompt[-2:-1]
    if last in QUOTES:
        return not before.strip() or before in JOINING or _opens(before)
    if last in JOINING:
        return not prompt.rstrip(OPERATORS)[-1:].isspace()
    return last in PREFIXES or _opens(last)


def _opens(character: str) -> bool:
    return unicodedata.category(character) in OPENING
