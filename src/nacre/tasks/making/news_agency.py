"""The news agency of an article: a second question to texts that are sorted by topic.

An article's dateline names its agency: `WASHINGTON (Reuters) - ...`, `AP - ...`. The rule:

- Reuters: the text has `(Reuters)` or `Reuters -`;
- AP: the text has `(AP)` or `AP -`;
- None: none of `Reuters`, `Associated Press` and the words `AP` and `AFP`, in any case, is in the text.

All other texts are left out: those of AFP, those with signs of two agencies, and those that mention an agency without
such a dateline.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from nacre.errors import DataError
from nacre.seeds import derive
from nacre.tasks.making.made_task import Change
from nacre.tasks.task import Row, Split, Task

REUTERS, AP, NONE = AGENCIES = ("Reuters", "AP", "None")
"""The label set, in prompt order."""

QUESTION = "What is the news agency of the following paragraph? Choose one from the option."
"""The instruction, in the words of the published one for topics."""

_DATELINES = {
    REUTERS: re.compile(r"\(Reuters\)|\bReuters -"),
    AP: re.compile(r"\(AP\)|\bAP -"),
}
_MENTIONS = {
    REUTERS: re.compile("reuters", re.IGNORECASE),
    AP: re.compile(r"\bap\b|associated press", re.IGNORECASE),
    "AFP": re.compile(r"\bafp\b", re.IGNORECASE),
}


def agency_of(text: str) -> str | None:
    """Returns the label of an article, one of `AGENCIES`; None if the rule cannot tell.

    Args:
        text: The article.
    """
    mentioned = [agency for agency, pattern in _MENTIONS.items() if pattern.search(text)]
    if not mentioned:
        return NONE
    (agency, *others) = mentioned
    dateline = _DATELINES.get(agency)
    return agency if not others and dateline and dateline.search(text) else None


@final
@dataclass(frozen=True)
class BalancedAgencies(Change):
    """Articles of which every topic has equally many of each agency, so that neither tells anything about the other.

    In each split and topic, each agency gives as many rows as the one that has the fewest. Which ones, their texts
    decide; they stay in their old order.
    """

    @property
    def said(self) -> str:
        """See `Change`."""
        return "as many articles of Reuters and of AP as of neither, in every topic"

    def apply(self, task: Task) -> Task:
        """See `Change`."""
        return replace(
            task,
            train=_balanced(task, "train"),
            validation=_balanced(task, "validation"),
            test=_balanced(task, "test"),
        )


@final
@dataclass(frozen=True)
class AskedForAgency(Change):
    """The agency as the target, and the question for it as the instruction; no rows of which the rule cannot tell."""

    @property
    def said(self) -> str:
        """See `Change`."""
        return "asked for the news agency"

    def apply(self, task: Task) -> Task:
        """See `Change`."""
        train, validation, test = (
            tuple(
                replace(row, target=agency, references=())
                for row in rows
                if (agency := agency_of(row.text)) is not None
            )
            for rows in (task.train, task.validation, task.test)
        )
        template = replace(task.template, instruction=QUESTION, options=True)
        return replace(task, train=train, validation=validation, test=test, labels=AGENCIES, template=template)


def _balanced(task: Task, split: Split) -> tuple[Row, ...]:
    cells: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    rows = task.rows(split)
    for number, row in enumerate(rows):
        if (agency := agency_of(row.text)) is not None:
            cells[row.target][agency].append(number)
    chosen: set[int] = set()
    for of_topic in cells.values():
        fewest = min(len(of_topic[agency]) for agency in AGENCIES)
        for numbers in of_topic.values():
            chosen |= set(_first(rows, numbers)[:fewest])
    if not chosen:
        raise DataError(
            f"Task '{task.name}': no topic of the {split} rows has articles of Reuters, of AP and of neither, by their "
            "datelines."
        )
    return tuple(row for number, row in enumerate(rows) if number in chosen)


def _first(rows: Sequence[Row], numbers: Sequence[int]) -> list[int]:
    return sorted(numbers, key=lambda number: (derive(0, "agency", rows[number].text), number))
