"""Texts that occur twice: in two splits of a task, in two tasks, or in one split."""

from __future__ import annotations

import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from nacre.tasks.task import SPLITS, Row, Split, Task

NAMED = 5
"""The number of rows that a finding names; it counts all of them."""

TaskSplit = tuple[str, Split]
"""A task's name and a split."""

_Answer = tuple[int, int]
"""A row's index and the number of one of its answers (`Row.learned`)."""


@dataclass(frozen=True)
class Overlap:
    """Rows of one split whose text occurs in another split, too.

    Attributes:
        here: The first split.
        there: The second split.
        size: The number of rows in `here`.
        rows: How many of them have the text of a row `there`, ignoring case, punctuation and white space.
        exact: How many of these texts are equal character by character, ignoring white space.
        same_target: How many of these rows have the same target as such a row there.
        examples: The first few pairs of a row here and a row there.
    """

    here: TaskSplit
    there: TaskSplit
    size: int
    rows: int
    exact: int
    same_target: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Repeats:
    """Rows of a split whose text occurs earlier in it.

    Attributes:
        split: The split.
        size: The number of its rows.
        rows: How many of them have the text of an earlier row, ignoring case, punctuation and white space.
        exact: How many of these texts are equal character by character, ignoring white space.
        contradicting: How many of these rows have another target than such an earlier row.
        examples: The first few pairs of a row and an earlier one.
    """

    split: TaskSplit
    size: int
    rows: int
    exact: int
    contradicting: int
    examples: tuple[tuple[str, str], ...]


class Texts:
    """An index of the texts of several tasks, so that comparing two splits is a look-up.

    A conversation has a text for each learned answer. It is looked up by the last one and found by all of them: a
    longer conversation that begins with a test question leaks it, too.

    Attributes:
        rows: The rows of every split.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.rows: dict[TaskSplit, tuple[Row, ...]] = {
            (task.name, split): task.rows(split) for task in tasks for split in SPLITS
        }
        self._forms = {
            split: [[forms(text) for text, _ in row.learned] for row in rows] for split, rows in self.rows.items()
        }
        self._where: dict[bytes, dict[TaskSplit, list[_Answer]]] = defaultdict(lambda: defaultdict(list))
        for split, split_forms in self._forms.items():
            for index, answers in enumerate(split_forms):
                for number, (_, normal) in enumerate(answers):
                    self._where[normal][split].append((index, number))

    def overlap(self, here: TaskSplit, there: TaskSplit) -> Overlap | None:
        """Returns the rows of `here` whose text occurs `there`; None if there are none."""
        rows = exact = same_target = 0
        examples: list[tuple[str, str]] = []
        for index, twins in self._twins(here, there):
            rows += 1
            own = (index, -1)
            exact += any(self._exact(here, own) == self._exact(there, twin) for twin in twins)
            same_target += any(self._target(there, twin) == self._target(here, own) for twin in twins)
            if len(examples) < NAMED:
                examples.append((self.name(here, index), self.name(there, twins[0][0])))
        if not rows:
            return None
        return Overlap(here, there, len(self.rows[here]), rows, exact, same_target, tuple(examples))

    def repeats(self, split: TaskSplit) -> Repeats | None:
        """Returns the rows whose text occurs in an earlier row of the same split; None if there are none."""
        rows = exact = contradicting = 0
        examples: list[tuple[str, str]] = []
        for index, twins in self._twins(split, split):
            earlier = [twin for twin in twins if twin[0] < index]
            if not earlier:
                continue
            rows += 1
            own = (index, -1)
            exact += any(self._exact(split, own) == self._exact(split, twin) for twin in earlier)
            contradicting += any(self._target(split, twin) != self._target(split, own) for twin in earlier)
            if len(examples) < NAMED:
                examples.append((self.name(split, index), self.name(split, earlier[0][0])))
        if not rows:
            return None
        return Repeats(split, len(self.rows[split]), rows, exact, contradicting, tuple(examples))

    def shared(self) -> set[tuple[TaskSplit, TaskSplit]]:
        """Returns all pairs of different splits that share a text, in both orders."""
        return {
            (here, there)
            for splits in self._where.values()
            if len(splits) > 1
            for here in splits
            for there in splits
            if here != there
        }

    def name(self, split: TaskSplit, index: int) -> str:
        """Returns what to call a row: its file and line, or its number in the split."""
        return self.rows[split][index].place or f"{split[1]}, row {index + 1}"

    def _twins(self, here: TaskSplit, there: TaskSplit) -> Iterator[tuple[int, list[_Answer]]]:
        for index, answers in enumerate(self._forms[here]):
            _, normal = answers[-1]
            if twins := self._where[normal].get(there):
                yield index, twins

    def _exact(self, split: TaskSplit, answer: _Answer) -> bytes:
        index, number = answer
        return self._forms[split][index][number][0]

    def _target(self, split: TaskSplit, answer: _Answer) -> str:
        index, number = answer
        return self.rows[split][index].learned[number][1]


def forms(text: str) -> tuple[bytes, bytes]:
    """Digests of a text in two normal forms; digests, so that memory does not hold the texts twice.

    Symbols such as + and < count, because arithmetic and code consist of them. So does the punctuation of a text that
    has nothing else.

    Args:
        text: The text.

    Returns:
        The digest of the text without differences in white space, and the digest without differences in case,
        punctuation, white space and Unicode compatibility forms.
    """
    spaced = " ".join(text.split())
    # Without any spaces, so that "do n't" in a tokenized source equals "don't".
    normal = unicodedata.normalize("NFKC", spaced).casefold().translate(_ignored())
    return _digest(spaced), _digest(normal or spaced)


def content(rows: Iterable[Row]) -> bytes:
    """Returns a digest of a split's rows that ignores their order and the kind of their file."""
    pairs = sorted(
        blake2b("\0".join([row.text, row.target, *map(str, row.turns)]).encode(), digest_size=16).digest()
        for row in rows
    )
    return blake2b(b"".join(pairs), digest_size=16).digest()


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


@cache
def _ignored() -> dict[int, None]:
    """White space and punctuation (Unicode's categories Z and P), for `str.translate`."""
    codes = range(sys.maxunicode + 1)
    return {code: None for code in codes if unicodedata.category(chr(code))[0] in "PZ"}
