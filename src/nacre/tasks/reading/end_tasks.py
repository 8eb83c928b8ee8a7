"""DAS's end tasks: a domain's classification with the training and test rows of the released code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from nacre.errors import DataError
from nacre.tasks.published.das import EndTask
from nacre.tasks.reading.fields import as_label, row_fault
from nacre.tasks.reading.sources import find_raw_task
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import SPLITS, Row, Split, Task
from nacre.tasks.template import Template


def load_end_task(end: EndTask, data: str, separator: str) -> Task:
    """Loads an end task with the training and test rows of the released code.

    The task has no validation rows: the released code chooses nothing on them and tests on them.

    Args:
        end: The end task.
        data: The data folder, in which the task lies like any other.
        separator: The token between aspect and sentence, as the tokenizer writes it.

    Returns:
        The task.

    Raises:
        DataError: A row lacks a field or has an unknown label; the message names the file and the line.
    """
    raw = find_raw_task(end.name, data, alone=False)
    rows = {
        split: [_row(end, table, record, separator) for record in table.records] for split, table in raw.tables.items()
    }
    labels = raw.card.labels or tuple(sorted({row.target for row, _ in rows["train"]}))
    for split, read in rows.items():
        for record, (row, _) in zip(raw.tables[split].records, read, strict=True):
            if row.target not in labels:
                raise DataError(
                    f"{raw.tables[split].at(record)}: label '{row.target}' is not in the label set "
                    f"({', '.join(labels)})."
                )
    train, test = _released_splits(end, rows, labels)
    if not train or not test:
        raise DataError(f"{raw.where}: no {'training' if not train else 'test'} rows are left after the split.")
    source: dict[str, Any] = {
        "layout": raw.layout,
        "files": {split: dict(raw.tables[split].origin) for split in SPLITS if split in raw.tables},
        "license": raw.card.license,
    }
    template = Template(answer_cue="")
    return Task(end.name, train, (), test, template, labels, "macro_f1", source)


def _released_splits(
    end: EndTask, rows: dict[Split, list[tuple[Row, str]]], labels: Sequence[str]
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Training and test rows. `rows` holds each row with its product."""
    if end.moved is None:
        return tuple(row for row, _ in rows["train"]), tuple(row for row, _ in rows["test"])
    if end.product is None:
        train = [row for row, _ in rows["train"]]
        test = [row for split in ("test", "validation") for row, _ in rows.get(split, [])]
    else:
        everything = [pair for split in SPLITS for pair in rows.get(split, [])]
        train = [row for row, product in everything if product == end.product]
        test = [row for row, product in everything if product != end.product]
    quota = len(train) * end.moved // (100 * len(labels))
    taken: Counter[str] = Counter()
    kept: list[Row] = []
    for row in train:
        if taken[row.target] < quota:
            taken[row.target] += 1
            test.append(row)
        else:
            kept.append(row)
    return tuple(kept), tuple(test)


def _row(end: EndTask, table: Table, record: RawRecord, separator: str) -> tuple[Row, str]:
    """A row and its product."""
    label = as_label(record.values.get("label"))
    if not label:
        raise DataError(f"{table.at(record)}: field 'label' must be a string or a number that is not empty.")
    text = _text(table, record, "text")
    if end.aspect:
        text = f"{_text(table, record, 'aspect')} {separator} {text}"
    return Row(text, label), _text(table, record, "product") if end.product else ""


def _text(table: Table, record: RawRecord, name: str) -> str:
    value = record.values.get(name)
    if not isinstance(value, str) or row_fault(value):
        raise DataError(f"{table.at(record)}: field '{name}' must be a string that is not empty.")
    return value
