"""A validation split held out of the training rows, for sources that have none of their own.

The published files ship the test split a second time as ``dev``; choosing anything on that is choosing on the test
rows. So a part of the training rows is held out instead, the same ones for the same seed on every machine.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from nacre.errors import DataError
from nacre.seeds import derive
from nacre.tasks.task import Row

ONE_IN = 10
MOST = 1000


def hold_out_validation(
    train: Sequence[Row], test: Sequence[Row], *, name: str, by_label: bool, seed: int
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Split ``train`` into (training rows, validation rows), both in their old order.

    A tenth of the rows, at most 1,000, at least one; in proportion to the labels when ``by_label``, with one row of
    every label that can spare one, even where that is more than a tenth. Never taken are rows whose text (white space
    aside) occurs again in train or in test, nor the last row of a label. The choice depends on the rows, the
    task's ``name`` and ``seed``. ``DataError`` when no row can be taken.
    """
    repeats = Counter(_key(text) for row in train for text, _ in row.learned)
    tested = {_key(row.text) for row in test}
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    free_of: defaultdict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(train):
        label = row.target if by_label else ""
        rows_of[label].append(index)
        if repeats[_key(row.text)] == 1 and _key(row.text) not in tested:
            free_of[label].append(index)

    spare = {label: min(len(free_of[label]), len(rows) - 1) for label, rows in sorted(rows_of.items())}
    quotas = _quotas({label: len(rows) for label, rows in sorted(rows_of.items())}, spare)
    rng = random.Random(derive(seed, "carve", name))
    chosen = {index for label, quota in quotas.items() for index in rng.sample(free_of[label], quota)}
    if not chosen:
        raise DataError(
            f"Task '{name}': there is no validation split, and none of the {len(train)} training rows can be held "
            "out for one (each is the last of its label, or its text occurs again in train or test); add a file "
            "with validation rows."
        )
    kept = tuple(row for index, row in enumerate(train) if index not in chosen)
    return kept, tuple(train[index] for index in sorted(chosen))


def _quotas(sizes: dict[str, int], spare: dict[str, int]) -> dict[str, int]:
    """How many rows each label gives: one each, then one at a time to the label furthest below its share.

    Shares are compared as whole numbers and ties go to the larger label, so that no machine rounds another way.
    """
    total = sum(sizes.values())
    wanted = min(MOST, max(1, total // ONE_IN))
    givers = sorted((label for label in sizes if spare[label] > 0), key=lambda label: (-sizes[label], label))[:MOST]
    quotas = dict.fromkeys(givers, 1)
    for _ in range(wanted - len(givers)):
        open_labels = [label for label in givers if quotas[label] < spare[label]]
        if not open_labels:
            break
        furthest = max(open_labels, key=lambda label: sizes[label] * wanted - quotas[label] * total)
        quotas[furthest] += 1
    return quotas


def _key(text: str) -> str:
    return " ".join(text.split())
