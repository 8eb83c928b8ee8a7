"""From records to rows: which field is the text, which is the target, and what a target may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nacre.documents import HALF_A_CHARACTER, is_text, shown
from nacre.errors import DataError
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import Row

FURTHER_INPUTS = ("system", "history", "tools", "chat_template_kwargs")
"""Fields beside a prompt that the chat template or the model is given in other libraries."""

MOST_TEXT = 5_000_000
"""Characters of a text: a long novel. What is longer is a mistake, and would be tokenized for minutes."""


@dataclass(frozen=True)
class Fields:
    """Names of the fields that hold the text and the target.

    Attributes:
        text: The field that holds the text.
        target: The field that holds the target.
        classes: Whether the targets are labels, so that the training rows give the label set.
        complete: Whether the text is already a complete prompt, to which nothing is added.
        references: An optional field with a list of all correct answers. If the target is a list itself, its first
            entry is the target and all entries are correct.
        before: A field whose text, if it has one, comes before the text, which may be empty then: `instruction` beside
            `input`, as in Alpaca's rows.
        turns: Whether the fields hold turns of a conversation, which `nacre.tasks.reading.conversations` reads. The
            same name for both stands for a whole conversation.
    """

    text: str
    target: str
    classes: bool = False
    complete: bool = False
    references: str | None = None
    before: str | None = None
    turns: bool = False

    @property
    def names(self) -> set[str]:
        """The fields that are read."""
        return {name for name in (self.text, self.target, self.references, self.before) if name is not None}


CONVENTIONS = (
    Fields("text", "label", classes=True),
    Fields("sentence", "label", classes=True),
    Fields("input", "output", references="outputs", before="instruction"),
    Fields("instruction", "output"),
    Fields("prompt", "completion", complete=True),
    Fields("prompt", "answer", complete=True),
    Fields("messages", "messages", complete=True, turns=True),
)


def find_fields(table: Table, named: Mapping[str, str]) -> Fields:
    """Finds the fields of a task in its training rows.

    Args:
        table: The training rows.
        named: Names that task.json gives for "text", "label" or "references". They replace the usual ones. The field
            given for "label" holds labels, unless there are references.

    Returns:
        The fields.

    Raises:
        DataError: The rows have no such fields.
    """
    present = table.columns if table.columns is not None else tuple(table.records[0].values)
    choices = _named(named) if named else CONVENTIONS
    for fields in choices:
        if fields.text in present and fields.target in present:
            first = table.records[0].values
            return replace(fields, turns=True) if _lists(first, fields) else fields
    if table.faults:  # what comes before the first record may be the reason
        raise DataError(table.faults[0])
    where, kind = (table.name, "columns") if table.columns is not None else (table.at(table.records[0]), "fields")
    wanted = ", or ".join(
        " and ".join(f"'{name}'" for name in dict.fromkeys((fields.text, fields.target))) for fields in choices
    )
    raise DataError(
        f"{where}: the {kind} are {_listed(present)}; expected are {wanted}. "
        'Other names are given in task.json: {"fields": {"text": ..., "label": ...}}.'
    )


def _lists(values: Mapping[str, object], fields: Fields) -> bool:
    """Whether a prompt and a completion are lists of turns."""
    return fields.complete and all(isinstance(values.get(name), list) for name in (fields.text, fields.target))


def _named(named: Mapping[str, str]) -> tuple[Fields, ...]:
    text, label, references = named.get("text"), named.get("label"), named.get("references")
    own = Fields(text or "", label or "", classes=references is None, references=references)
    if text and label:
        return (own,)
    if label:
        return tuple(replace(own, text=name) for name in dict.fromkeys(c.text for c in CONVENTIONS if not c.turns))
    return tuple(
        replace(usual, text=text or usual.text, complete=False, references=references or usual.references, before=None)
        for usual in CONVENTIONS
        if not usual.turns
    )


def row_reader(table: Table, fields: Fields) -> Callable[[RawRecord], Row]:
    """Returns what makes a row of a record.

    Labels that are numbers, true or false become strings (`1`, `True`).

    Args:
        table: The records of the split.
        fields: The names of their fields.

    Returns:
        A function. It raises `DataError` if the record lacks a field; if the text is empty or not a string; or if the
        target is empty, null, a list or an object. The message names the file and the line.

    Raises:
        DataError: The file has a header that lacks the fields.
    """
    check_columns(table, fields)
    return lambda record: _row(table, record, fields)


def check_columns(table: Table, fields: Fields) -> None:
    """Raises `DataError` if the file has a header that lacks the fields."""
    if table.columns is not None and (missing := {fields.text, fields.target} - set(table.columns)):
        raise DataError(
            f"{table.name}: there is no column {_listed(sorted(missing))}; the columns are {_listed(table.columns)}."
        )


def unread_columns(tables: Iterable[Table], read: Collection[str]) -> list[str]:
    """Returns the names of the fields that hold something in some row, and that nobody reads, sorted."""
    filled = {
        name
        for table in tables
        for record in table.records
        for name, value in record.values.items()
        if value not in (None, "", [], {})
    }
    return sorted(filled - set(read))


def check_further_inputs(record: RawRecord, fields: Fields, where: str) -> None:
    """Refuses a row whose answer depends on a field that no row has a place for.

    Raises:
        DataError: The row has such a field; the message begins with `where` and names the field.
    """
    if not (fields.complete or fields.before):
        return
    for name in FURTHER_INPUTS:
        if record.values.get(name):
            what = "conversations" if fields.turns else "rows"
            raise DataError(
                f"{where}: {what} with '{name}' cannot be learned; write a system prompt or earlier turns into the "
                "prompt or the messages, or remove the field or the row."
            )
    if fields.target == "completion" and record.values.get("label") in (False, "False", "false", "0"):
        raise DataError(
            f"{where}: 'label' is {shown(record.values['label'])}, so the completion is one that people rejected; "
            "remove the row, because completions are learned as right answers."
        )


def field_value(record: RawRecord, name: str, where: str) -> object:
    """Returns what a field holds.

    Raises:
        DataError: The record has no such field; the message begins with `where`.
    """
    if name not in record.values:
        raise DataError(f"{where}: there is no field '{name}'; the row has {_listed(record.values)}.")
    return record.values[name]


def _row(table: Table, record: RawRecord, fields: Fields) -> Row:
    where = table.at(record)
    check_further_inputs(record, fields, where)
    text, _ = (field_value(record, name, where) for name in (fields.text, fields.target))
    if not isinstance(text, str):
        raise DataError(f"{where}: field '{fields.text}' must be a string, not {_shown(text)}.")
    if fields.before is not None and (before := record.values.get(fields.before)):
        if not isinstance(before, str):
            raise DataError(f"{where}: field '{fields.before}' must be a string, not {_shown(before)}.")
        text = f"{before}\n\n{text}" if text.strip() else before
    answers = _answers(record, fields, where)
    for name, value in ((fields.text, text), *((fields.target, answer) for answer in answers)):
        if fault := row_fault(value):
            raise DataError(f"{where}: field '{name}' {fault}.")
    return Row(text, answers[0], answers[1:], place=table.place(record))


def _answers(record: RawRecord, fields: Fields, where: str) -> tuple[str, ...]:
    """The target, followed by the other correct answers; none appears twice."""
    value = record.values[fields.target]
    accepted = [value]
    if isinstance(value, list) and value and fields.references is not None:
        accepted = value
    if fields.references is not None and (references := record.values.get(fields.references)) is not None:
        if not isinstance(references, list):
            raise DataError(
                f"{where}: field '{fields.references}' must be a list of answers, not {_shown(references)}."
            )
        accepted = [*accepted, *references]
    answers = [as_label(entry) for entry in accepted]
    for entry, answer in zip(accepted, answers, strict=True):
        if answer is None:
            raise DataError(f"{where}: field '{fields.target}' must be a string or a number, not {_shown(entry)}.")
    return tuple(dict.fromkeys(answer for answer in answers if answer is not None))


def as_label(value: object) -> str | None:
    """Returns the value as a label string, or None if it cannot be one (null, NaN, a list, an object)."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, (bool, int, float)) else None


def row_fault(value: str) -> str | None:
    """Returns why no row can hold a string, as the end of a sentence that begins with its field; None if one can."""
    if not value.strip():
        return "is empty"
    if len(value) > MOST_TEXT:
        return f"has {len(value):,} characters; a row may have {MOST_TEXT:,}"
    return None if is_text(value) else HALF_A_CHARACTER


def label_check(table: Table, labels: Sequence[str], no_label: str | None = None) -> Callable[[RawRecord, Row], None]:
    """Returns what checks that a row's target is a label.

    Args:
        table: The records of the split.
        labels: The allowed labels.
        no_label: The mark of rows that have no label, which is allowed, too.

    Returns:
        A function. It raises `DataError` if the target is no label; the message names the file, the line and the
        allowed labels.
    """
    allowed = {*labels, no_label}

    def check(record: RawRecord, row: Row) -> None:
        if row.target not in allowed:
            listed = ", ".join(shown(label) for label in labels[:20]) + (", ..." if len(labels) > 20 else "")
            raise DataError(
                f"{table.at(record)}: label {shown(row.target)} is not in the label set, which is {listed}. "
                'task.json can name another: {"labels": [...]}, or null for free text.'
            )

    return check


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return shown(value)


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    listed = ", ".join(shown(name) for name in list(names)[:20])
    return f"{listed} and {len(names) - 20} more" if len(names) > 20 else listed or "none"
