"""A validation split held out of the training rows, for sources that have none of their own.

The published files repeat the test split as `dev`; choosing anything on it is choosing on the test rows. Therefore
some of the training rows are held out instead, the same ones for the same seed on every machine.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from nacre.errors import DataError
from nacre.seeds import derive
from nacre.tasks.task import Row, Split

ONE_IN = 10
MOST = 1000


def hold_out(
    train: Sequence[Row], test: Sequence[Row], *, name: str, by_label: bool, seed: int, split: Split = "validation"
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Splits training rows into training and validation rows.

    A tenth of the rows is held out, at least one and at most 1,000. With `by_label` they are in proportion to the
    labels, with one row of every label that can spare one, even if that is more than a tenth. A row stays in training
    if its text (ignoring white space) occurs again in train or test, or if it is the last of its label.

    Args:
        train: The training rows.
        test: The test rows.
        name: The task's name, on which the choice depends.
        by_label: Whether targets are labels.
        seed: Seed of the choice.
        split: The split that is held out: validation rows, or the test rows of a source that is one file.

    Returns:
        Training rows and validation rows, each in their old order.

    Raises:
        DataError: No row can be held out.
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
    rng = random.Random(derive(seed, "carve", name, *(() if split == "validation" else (split,))))
    chosen = {index for label, quota in quotas.items() for index in rng.sample(free_of[label], quota)}
    if not chosen:
        raise DataError(
            f"Task '{name}': there is no {split} split, and none of the {len(train)} training rows can be held "
            "out for one (each is the last of its label, or its text occurs again in train or test); add a file "
            f"with {split} rows."
        )
    kept = tuple(row for index, row in enumerate(train) if index not in chosen)
    return kept, tuple(train[index] for index in sorted(chosen))


def _quotas(sizes: dict[str, int], spare: dict[str, int]) -> dict[str, int]:
    """How many rows each label gives: one each, then one at a time to the label furthest below its share.

    Shares are compared as whole numbers and ties go to the larger label, so that all machines agree.
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
