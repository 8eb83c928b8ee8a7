"""Text and tables on a terminal: lines break between words, tables break between columns, and color has a meaning.

Where the output is a file or a pipe, nothing is broken: a sentence is a line, and a row of a table is a line. Color is
off there, and wherever `NO_COLOR` or the terminal says so (rich decides).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nacre.console import PlainConsole
from nacre.printable import printable

BEST, WORST, WARNING, ERROR, LEARNED = "green", "red", "yellow", "bold red", "bold"
"""What a color says."""

GAP = 2
"""Blanks between two columns."""

UNDEFINED = "-"


def screen(*, error: bool = False) -> Console:
    """A console that prints text as it is.

    Args:
        error: Whether it is standard error.
    """
    return PlainConsole(stderr=error)


def say(console: Console, text: str, style: str = "") -> None:
    """Print sentences. On a terminal lines break between words; a word longer than a line, such as a path, stays whole.

    Args:
        console: Where to.
        text: One paragraph. Blanks at its beginning indent all of it; after a word and several blanks, all of it
            stands where the next word does.
        style: Its color.
    """
    text = printable(text)  # before it is broken into lines
    if _is_bounded(console):
        hanging = re.match(r" *\S+ {2,}(?=\S)", text) or re.match(r" *", text)
        indent = " " * (len(hanging[0]) if hanging and len(hanging[0]) <= console.width // 2 else 0)
        # rich would break a word that is longer than a line.
        text = fill(text, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    console.print(text, style=style, soft_wrap=True)


def print_error(text: str) -> None:
    """Print to standard error what the user can mend: one line, or on a terminal one paragraph.

    Args:
        text: The error, in a sentence or two.
    """
    console = screen(error=True)
    if console.is_terminal:
        say(console, f"Error: {text}", ERROR)
    else:  # programs read it by the line, whatever width the environment names
        print(f"Error: {text}", file=sys.stderr)


def line_width(widest: int) -> int:
    """Columns that text may take on standard output.

    Args:
        widest: Beyond which a line is hard to read.
    """
    console = screen()
    return min(widest, console.width) if _is_bounded(console) else widest


@dataclass(frozen=True)
class Grid:
    """A table of texts, whose first column says what each row is of.

    Attributes:
        title: What stands above it; empty for nothing.
        headings: Of the columns.
        rows: Their texts, with or without a color.
        left: Columns whose texts stand at the left, besides the first; numbers stand at the right.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    left: frozenset[int] = field(default_factory=frozenset)

    def print(self, console: Console) -> None:
        """Print the table; columns that do not fit beside the others follow below, behind the first column again."""
        if self.title:
            say(console, self.title)
        bounded = _is_bounded(console)
        for columns in self._blocks(console.width if bounded else None):
            table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
            for column in columns:
                table.add_column(self.headings[column], justify=self._side(column), no_wrap=column > 0)
            for row in self.rows:
                table.add_row(*(row[column] for column in columns))
            if not bounded:
                console.width = sum(self._width(column) + GAP for column in columns)
            console.print(table, crop=False)

    def _blocks(self, width: int | None) -> Iterator[list[int]]:
        """Columns that are printed beside each other."""
        block, used = [0], self._width(0)
        for column in range(1, len(self.headings)):
            own = GAP + self._width(column)
            if width is not None and used + own > width and len(block) > 1:
                yield block
                block, used = [0], self._width(0)
            block.append(column)
            used += own
        yield block

    def _width(self, column: int) -> int:
        texts = [self.headings[column], *(row[column] for row in self.rows)]
        return max(cell_len(line) for text in texts for line in printable(str(text)).split("\n"))

    def _side(self, column: int) -> Literal["left", "right"]:
        return "left" if column == 0 or column in self.left else "right"


def extremes(values: Sequence[float | None], *, lower_is_better: bool) -> list[str]:
    """The color of each value: the best one's and the worst one's, where there are two that differ.

    Args:
        values: Of one metric; None where it is not defined.
        lower_is_better: Whether the lowest is the best.
    """
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return [""] * len(values)
    low, high = (BEST, WORST) if lower_is_better else (WORST, BEST)
    return [low if value == min(known) else high if value == max(known) else "" for value in values]


def percent(value: float | None, sign: bool = False) -> str:
    """A fraction in percent.

    Args:
        value: The fraction; None gives a dash.
        sign: Whether a gain has a plus; nothing gained or lost has no sign.
    """
    if value is None:
        return UNDEFINED
    text = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def _is_bounded(console: Console) -> bool:
    """Whether lines have a width: on a terminal, and where the environment names one."""
    return console.is_terminal or bool(os.environ.get("COLUMNS"))
