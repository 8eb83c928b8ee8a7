"""Text that a terminal shows and does not obey."""

from __future__ import annotations

import re

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line end, other line ends, changes of the writing direction, halves of characters."""


def printable(text: str) -> str:
    r"""A text with its control characters written out, as JSON writes them: an escape character becomes `\u001b`.

    Names, labels and rows come from other people's files. Raw, they could move the cursor, set the window's title or
    hide what follows. A JSON text keeps its meaning.

    Args:
        text: Any text.
    """
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """A printable text on one line."""
    return printable(" ".join(text.replace("\t", " ").splitlines()))
