"""Texts that stand in two places: two splits of a task, two tasks, or twice in one split."""

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
"""Rows that a finding names; it counts all of them."""

TaskSplit = tuple[str, Split]
"""A task's name and a split."""

_Answer = tuple[int, int]
"""A row's index and the number of one of its answers (``Row.learnt``)."""


@dataclass(frozen=True)
class Overlap:
    """Rows of one place whose text stands in another place too.

    size: rows of the first place. rows: those whose text is the same, case, punctuation and white space aside.
    exact: those of them whose text is the same letter by letter, white space aside. same_target: those of them that
    have the same target as one such row there. examples: a row here and one there, the first few.
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
    """Rows of a place whose text stands further up in it. contradicting: those with another target there."""

    place: TaskSplit
    size: int
    rows: int
    exact: int
    contradicting: int
    examples: tuple[tuple[str, str], ...]


class Texts:
    """Every text of some tasks by what it is, so that a comparison of any two places is a look-up.

    A conversation has a text for each of its answers that is learnt. It is looked up by that of the last, and found by
    all: a test question is leaked, too, by a longer conversation that begins with it.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.rows: dict[TaskSplit, tuple[Row, ...]] = {
            (task.name, split): task.rows(split) for task in tasks for split in SPLITS
        }
        self._forms = {
            place: [[forms(text) for text, _ in row.learned] for row in rows] for place, rows in self.rows.items()
        }
        self._where: dict[bytes, dict[TaskSplit, list[_Answer]]] = defaultdict(lambda: defaultdict(list))
        for place, found in self._forms.items():
            for index, answers in enumerate(found):
                for number, (_, normal) in enumerate(answers):
                    self._where[normal][place].append((index, number))

    def overlap(self, here: TaskSplit, there: TaskSplit) -> Overlap | None:
        """Rows of ``here`` whose text stands ``there``; None if there is no such row."""
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

    def repeats(self, place: TaskSplit) -> Repeats | None:
        """Rows whose text stands in an earlier row of the same place; None if there is no such row."""
        rows = exact = contradicting = 0
        examples: list[tuple[str, str]] = []
        for index, twins in self._twins(place, place):
            earlier = [twin for twin in twins if twin[0] < index]
            if not earlier:
                continue
            rows += 1
            own = (index, -1)
            exact += any(self._exact(place, own) == self._exact(place, twin) for twin in earlier)
            contradicting += any(self._target(place, twin) != self._target(place, own) for twin in earlier)
            if len(examples) < NAMED:
                examples.append((self.name(place, index), self.name(place, earlier[0][0])))
        if not rows:
            return None
        return Repeats(place, len(self.rows[place]), rows, exact, contradicting, tuple(examples))

    def shared(self) -> set[tuple[TaskSplit, TaskSplit]]:
        """Every two different places, in both orders, that share a text."""
        return {
            (here, there)
            for places in self._where.values()
            if len(places) > 1
            for here in places
            for there in places
            if here != there
        }

    def name(self, place: TaskSplit, index: int) -> str:
        """A row as a person finds it: file and line, or its number in the split."""
        return self.rows[place][index].place or f"{place[1]}, row {index + 1}"

    def _twins(self, here: TaskSplit, there: TaskSplit) -> Iterator[tuple[int, list[_Answer]]]:
        for index, answers in enumerate(self._forms[here]):
            _, normal = answers[-1]
            if twins := self._where[normal].get(there):
                yield index, twins

    def _exact(self, place: TaskSplit, answer: _Answer) -> bytes:
        index, number = answer
        return self._forms[place][index][number][0]

    def _target(self, place: TaskSplit, answer: _Answer) -> str:
        index, number = answer
        return self.rows[place][index].learned[number][1]


def forms(text: str) -> tuple[bytes, bytes]:
    """What a text is, white space aside; and what it is, case, punctuation and compatibility forms aside too.

    Symbols such as + and < stay, because they are what arithmetic and code consist of. A text of nothing but
    punctuation stays as it is. As digests: the texts of a benchmark are not held twice.
    """
    spaced = " ".join(text.split())
    # Spaces go altogether, so that "do n't" of a tokenized source is "don't".
    normal = unicodedata.normalize("NFKC", spaced).casefold().translate(_ignored())
    return _digest(spaced), _digest(normal or spaced)


def content(rows: Iterable[Row]) -> bytes:
    """What the rows of a split are, whatever their order and the kind of their file."""
    pairs = sorted(
        blake2b("\0".join([row.text, row.target, *map(str, row.turns)]).encode(), digest_size=16).digest()
        for row in rows
    )
    return blake2b(b"".join(pairs), digest_size=16).digest()


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


@cache
def _ignored() -> dict[int, None]:
    """White space and punctuation (Unicode's categories Z and P), for ``str.translate``."""
    codes = range(sys.maxunicode + 1)
    return {code: None for code in codes if unicodedata.category(chr(code))[0] in "PZ"}
