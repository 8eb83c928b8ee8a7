"""From records to rows: which field is the text, which the target, and what a target may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nacre.errors import DataError
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import Row


@dataclass(frozen=True)
class Fields:
    """Names of the field that is read and of the field that is to be answered.

    references: name of a field that a row may have: a list of all answers that are right. Where the field to be
        answered is a list itself, its first entry is the target and all are right.
    classes: whether the answers are labels, so that a label set can be read off the training rows.
    complete: whether the text is a complete prompt already, to which nothing is added.
    turns: whether they hold turns of a conversation, which ``tasks/reading/conversations`` reads; the same name twice
        stands for a whole conversation.
    """

    text: str
    target: str
    classes: bool = False
    complete: bool = False
    references: str | None = None
    turns: bool = False


CONVENTIONS = (
    Fields("text", "label", classes=True),
    Fields("sentence", "label", classes=True),
    Fields("input", "output", references="outputs"),
    Fields("prompt", "completion", complete=True),
    Fields("prompt", "answer", complete=True),
    Fields("messages", "messages", complete=True, turns=True),
)


def find_fields(table: Table, named: Mapping[str, str]) -> Fields:
    """The fields of a task, found in its training rows.

    named: names that task.json gives for "text", "label", "references" or some of them; they take the place of the
    usual ones. A field named "label" there holds labels, unless there are references.
    """
    present = table.columns if table.columns is not None else tuple(table.records[0].values)
    choices = _named(named) if named else CONVENTIONS
    for fields in choices:
        if fields.text in present and fields.target in present:
            first = table.records[0].values
            return replace(fields, turns=True) if _lists(first, fields) else fields
    where, kind = (table.name, "columns") if table.columns is not None else (table.at(table.records[0]), "fields")
    wanted = ", or ".join(
        " and ".join(f"'{name}'" for name in dict.fromkeys((fields.text, fields.target))) for fields in choices
    )
    raise DataError(
        f"{where}: the {kind} are {_listed(present)}; needed are {wanted}. "
        'Other names are given in task.json: {"fields": {"text": ..., "label": ...}}.'
    )


def _lists(values: Mapping[str, object], fields: Fields) -> bool:
    """Whether these are a prompt and a completion in turns."""
    return fields.complete and all(isinstance(values.get(name), list) for name in (fields.text, fields.target))


def _named(named: Mapping[str, str]) -> tuple[Fields, ...]:
    text, label, references = named.get("text"), named.get("label"), named.get("references")
    own = Fields(text or "", label or "", classes=references is None, references=references)
    if text and label:
        return (own,)
    if label:
        return tuple(replace(own, text=name) for name in dict.fromkeys(c.text for c in CONVENTIONS if not c.turns))
    return tuple(
        replace(usual, text=text or usual.text, complete=False, references=references or usual.references)
        for usual in CONVENTIONS
        if not usual.turns
    )


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
    check_columns(table, fields)
    return [Placed(_row(table, record, fields), table.at(record)) for record in table.records]


def check_columns(table: Table, fields: Fields) -> None:
    """``DataError`` if the file has a header without the fields."""
    if table.columns is not None and (missing := {fields.text, fields.target} - set(table.columns)):
        raise DataError(
            f"{table.name}: there is no column {_listed(sorted(missing))}; the columns are {_listed(table.columns)}."
        )


def field_value(record: RawRecord, name: str, where: str) -> object:
    """What a field holds; ``DataError`` that begins with ``where`` if there is none."""
    if name not in record.values:
        raise DataError(f"{where}: there is no field '{name}'; the row has {_listed(record.values)}.")
    return record.values[name]


def _row(table: Table, record: RawRecord, fields: Fields) -> Row:
    where = table.at(record)
    text, _ = (field_value(record, name, where) for name in (fields.text, fields.target))
    if not isinstance(text, str):
        raise DataError(f"{where}: field '{fields.text}' must be a string, not {_shown(text)}.")
    answers = _answers(record, fields, where)
    for name, value in ((fields.text, text), *((fields.target, answer) for answer in answers)):
        if not value.strip():
            raise DataError(f"{where}: field '{name}' is empty.")
        if not is_text(value):
            raise DataError(f"{where}: field '{name}' holds half a character (a lone surrogate, \\ud800 to \\udfff).")
    return Row(text, answers[0], answers[1:])


def _answers(record: RawRecord, fields: Fields, where: str) -> tuple[str, ...]:
    """The target and, after it, the other answers that are right; none twice."""
    value = record.values[fields.target]
    several = [value]
    if isinstance(value, list) and value and fields.references is not None:
        several = value
    if fields.references is not None and (further := record.values.get(fields.references)) is not None:
        if not isinstance(further, list):
            raise DataError(f"{where}: field '{fields.references}' must be a list of answers, not {_shown(further)}.")
        several = [*several, *further]
    answers = [as_label(one) for one in several]
    for one, answer in zip(several, answers, strict=True):
        if answer is None:
            raise DataError(f"{where}: field '{fields.target}' must be a string or a number, not {_shown(one)}.")
    return tuple(dict.fromkeys(answer for answer in answers if answer is not None))


def as_label(value: object) -> str | None:
    """The value as a label string, or None when it cannot be one (null, NaN, a list, an object)."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, (bool, int, float)) else None


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8."""
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
