"""Passages: texts whose sentences belong together, read from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nacre.errors import DataError


def read_passages(files: Sequence[Path]) -> list[str]:
    """The paragraphs of text files, separated by empty lines, in order.

    Args:
        files: Text files in UTF-8.

    Raises:
        DataError: There is no file, one cannot be read as UTF-8, or all are empty.
    """
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
        passages += _paragraphs(lines)
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
