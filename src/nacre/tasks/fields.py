"""From records to rows: which field is the text, which the target, and what a target may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nacre.errors import DataError
from nacre.tasks.tables import Record, Table
from nacre.tasks.task import Row


@dataclass(frozen=True)
class Fields:
    """Names of the field that is read and of the field that is to be answered.

    classes: whether the answers are labels, so that a label set can be read off the training rows.
    complete: whether the text is a complete prompt already, to which nothing is added.
    """

    text: str
    target: str
    classes: bool = False
    complete: bool = False


CONVENTIONS = (
    Fields("text", "label", classes=True),
    Fields("sentence", "label", classes=True),
    Fields("input", "output"),
    Fields("prompt", "completion", complete=True),
    Fields("prompt", "answer", complete=True),
)


def find_fields(table: Table, named: Mapping[str, str]) -> Fields:
    """The fields of a task, found in its training rows.

    named: names that task.json gives for "text", "label" or both; they take the place of the usual ones. A field
    named there holds labels.
    """
    present = table.columns if table.columns is not None else tuple(table.records[0].values)
    choices = _named(named) if named else CONVENTIONS
    for fields in choices:
        if fields.text in present and fields.target in present:
            return fields
    where, kind = (table.name, "columns") if table.columns is not None else (table.at(table.records[0]), "fields")
    wanted = ", or ".join(f"'{fields.text}' and '{fields.target}'" for fields in choices)
    raise DataError(
        f"{where}: the {kind} are {_listed(present)}; needed are {wanted}. "
        'Other names are given in task.json: {"fields": {"text": ..., "label": ...}}.'
    )


def _named(named: Mapping[str, str]) -> tuple[Fields, ...]:
    text, label = named.get("text"), named.get("label")
    if text and label:
        return (Fields(text, label, classes=True),)
    if label:
        return tuple(Fields(name, label, classes=True) for name in dict.fromkeys(c.text for c in CONVENTIONS))
    return tuple(Fields(text or c.text, c.target, c.classes) for c in CONVENTIONS)


@dataclass(frozen=True)
class Placed:
    """A row and the place it came from, for messages."""

    row: Row
    where: str


def read_rows(table: Table, fields: Fields) -> list[Placed]:
    """The rows of a split in the order of its records.

    Labels that are numbers, true or false become strings (``1``, ``True``). ``DataError`` with file and line for a
    row without the fields, a text that is no string, a target that is null, a list or an object, and empty ones.
    """
    if table.columns is not None and (missing := {fields.text, fields.target} - set(table.columns)):
        raise DataError(
            f"{table.name}: there is no column {_listed(sorted(missing))}; the columns are {_listed(table.columns)}."
        )
    return [Placed(_row(table, record, fields), table.at(record)) for record in table.records]


def _row(table: Table, record: Record, fields: Fields) -> Row:
    where = table.at(record)
    for name in (fields.text, fields.target):
        if name not in record.values:
            raise DataError(f"{where}: there is no field '{name}'; the row has {_listed(record.values)}.")
    text = record.values[fields.text]
    if not isinstance(text, str):
        raise DataError(f"{where}: field '{fields.text}' must be a string, not {_shown(text)}.")
    target = as_label(record.values[fields.target])
    if target is None:
        shown = _shown(record.values[fields.target])
        raise DataError(f"{where}: field '{fields.target}' must be a string or a number, not {shown}.")
    for name, value in ((fields.text, text), (fields.target, target)):
        if not value.strip():
            raise DataError(f"{where}: field '{name}' is empty.")
        if not _is_text(value):
            raise DataError(f"{where}: field '{name}' holds half a character (a lone surrogate, \\ud800 to \\udfff).")
    return Row(text, target)


def as_label(value: object) -> str | None:
    """The value as a label string, or None when it cannot be one (null, NaN, a list, an object)."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, (bool, int, float)) else None


def _is_text(value: str) -> bool:
    # JSON escapes can spell half of a surrogate pair, which no tokenizer and no file takes.
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_labels(rows: Sequence[Placed], labels: Sequence[str]) -> None:
    """``DataError`` with file, line and the allowed labels for the first row whose target is not one of them."""
    allowed = set(labels)
    for placed in rows:
        if placed.row.target not in allowed:
            shown = ", ".join(f"'{label}'" for label in labels[:20]) + (", ..." if len(labels) > 20 else "")
            raise DataError(
                f"{placed.where}: label '{placed.row.target}' is not in the label set, which is {shown}. "
                'task.json can name another: {"labels": [...]}, or null for free text.'
            )


def _shown(value: object) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names) if names else "none"
