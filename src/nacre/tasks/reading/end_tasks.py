"""DAS's end tasks: a domain's classification with the training and test rows of the released code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from nacre.errors import DataError
from nacre.tasks.published.das import EndTask
from nacre.tasks.reading.fields import as_label, is_text
from nacre.tasks.reading.sources import find_raw_task
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import SPLITS, Row, Split, Task
from nacre.tasks.template import Template


def load_end_task(end: EndTask, data: str, separator: str) -> Task:
    """The end task, found under ``data`` like any task, with the training and test rows of the released code.

    separator: the token between aspect and sentence, as the tokenizer writes it. The task has no validation rows: the
    released code chooses nothing on any, and tests on them.
    ``DataError`` with file and line for a row without the fields it needs, or with a label that is none.
    """
    found = find_raw_task(end.name, data, alone=False)
    rows = {split: [_row(end, table, one, separator) for one in table.records] for split, table in found.tables.items()}
    labels = found.card.labels or tuple(sorted({row.target for row, _ in rows["train"]}))
    for split, read in rows.items():
        for record, (row, _) in zip(found.tables[split].records, read, strict=True):
            if row.target not in labels:
                raise DataError(
                    f"{found.tables[split].at(record)}: label '{row.target}' is not in the label set "
                    f"({', '.join(labels)})."
                )
    train, test = _released_splits(end, rows, labels)
    if not train or not test:
        raise DataError(f"{found.where}: no {'training' if not train else 'test'} rows are left after the split.")
    source: dict[str, Any] = {
        "layout": found.layout,
        "files": {split: dict(found.tables[split].origin) for split in SPLITS if split in found.tables},
        "license": found.card.license,
    }
    template = Template(answer_cue="")
    return Task(end.name, train, (), test, template, labels, "macro_f1", source)


def _released_splits(
    end: EndTask, rows: dict[Split, list[tuple[Row, str]]], labels: Sequence[str]
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Training and test rows; rows: each with its product."""
    if end.moved is None:
        return tuple(row for row, _ in rows["train"]), tuple(row for row, _ in rows["test"])
    if end.product is None:
        train = [row for row, _ in rows["train"]]
        test = [row for split in ("test", "validation") for row, _ in rows.get(split, [])]
    else:
        everything = [one for split in SPLITS for one in rows.get(split, [])]
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
    if not isinstance(value, str) or not value.strip() or not is_text(value):
        raise DataError(f"{table.at(record)}: field '{name}' must be a string that is not empty.")
    return value
