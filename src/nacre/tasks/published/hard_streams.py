"""Hard streams, made of the rows of the fifteen published tasks: where routers, or closed forms, should fail.

Nobody published them. Every choice of rows follows from the texts alone, so that all machines make the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations, zip_longest

from nacre.tasks.making.bare_prompt import BarePrompt
from nacre.tasks.making.made_task import Change, MadeTask
from nacre.tasks.making.news_agency import AskedForAgency, BalancedAgencies
from nacre.tasks.making.rewording import RewordedTests
from nacre.tasks.making.some_classes import Deal, SomeClasses
from nacre.tasks.published.catalog import CATALOG, known

_ORDER_1 = ("dbpedia", "amazon", "yahoo", "agnews")
_TOPICS = ("dbpedia", "yahoo", "agnews")

TEXT_ONLY = tuple(MadeTask(name, name, (BarePrompt(),)) for name in _ORDER_1)
"""Order 1 with the bare text as the prompt."""

REWORDED = tuple(MadeTask(name, name, (RewordedTests(),)) for name in _ORDER_1)
"""Order 1, whose test rows are asked in other words."""


def _conflict(*more: Change) -> tuple[MadeTask, ...]:
    """The same articles asked for their topic and for their agency, one task between them and one on each side."""
    return (
        MadeTask("dbpedia", "dbpedia", more),
        MadeTask("agnews_topic", "agnews", (BalancedAgencies(), *more)),
        MadeTask("amazon", "amazon", more),
        MadeTask("agnews_agency", "agnews", (BalancedAgencies(), AskedForAgency(), *more)),
        MadeTask("yahoo", "yahoo", more),
    )


CONFLICT = _conflict()
"""The same articles in two tasks, with the question in the prompt."""

CONFLICT_TEXT_ONLY = _conflict(BarePrompt())
"""The same articles in two tasks, and nothing that says what is asked."""


def _labels(of: str) -> tuple[str, ...]:
    task = known(of)
    assert task is not None  # `of` is a name in the catalog
    return task.labels


def _of_classes(of: str, deals: Sequence[Deal], *more: Change) -> MadeTask:
    numbers = [str(_labels(of).index(deal.label) + 1) for deal in deals]
    return MadeTask(
        "_".join([of, "class" if len(deals) == 1 else "classes", *numbers]), of, (SomeClasses(tuple(deals)), *more)
    )


def _neighbors(of: str, *more: Change) -> list[MadeTask]:
    """Tasks of two classes, in the order of the labels."""
    labels = _labels(of)
    pairs = zip(labels[::2], labels[1::2], strict=True)
    return [_of_classes(of, [Deal(first), Deal(second)], *more) for first, second in pairs]


def _all_pairs(of: str) -> list[MadeTask]:
    """A task for every two classes. A class's rows are dealt out among its tasks, so that none is in two."""
    labels = _labels(of)
    pairs = list(combinations(labels, 2))

    def deal(label: str, pair: tuple[str, str]) -> Deal:
        own = [each for each in pairs if label in each]
        return Deal(label, own.index(pair), len(own))

    return [_of_classes(of, [deal(label, pair) for label in pair]) for pair in pairs]


SPLIT_CLASSES = tuple(chain.from_iterable(_neighbors(of, BarePrompt()) for of in _TOPICS))
"""The topics of three tasks in 14 tasks of two classes, with the bare text as the prompt."""

SPLIT_CLASSES_28 = tuple(_of_classes(of, [Deal(label)], BarePrompt()) for of in _TOPICS for label in _labels(of))
"""The same, one class a task."""


def _fifty() -> tuple[MadeTask, ...]:
    """Fifty tasks, each row in one of them; a task of each of the fifteen in turn, until none is left."""
    split = {
        **{of: _neighbors(of) for of in ("dbpedia", "yahoo")},
        **{of: _all_pairs(of) for of in ("agnews", "amazon", "yelp", "mnli")},
    }
    sources = [split.get(task.name, [MadeTask(task.name, task.name)]) for task in CATALOG]
    return tuple(task for turn in zip_longest(*sources) for task in turn if task is not None)


FIFTY = _fifty()
"""All fifteen tasks: six of them as pairs of their classes, the other nine whole."""
