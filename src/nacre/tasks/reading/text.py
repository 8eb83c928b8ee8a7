"""Rows of unlabelled text."""

from __future__ import annotations

from nacre.errors import DataError
from nacre.tasks.reading.fields import is_text
from nacre.tasks.reading.tables import Table
from nacre.tasks.task import Row


def read_texts(table: Table, column: str) -> tuple[Row, ...]:
    """The texts of a split, in the order of its records; other fields are left alone.

    ``DataError`` with file and line for a row whose text is missing, empty or no string.
    """
    return tuple(Row(_text(table, number, column), "") for number in range(len(table.records)))


def _text(table: Table, number: int, column: str) -> str:
    record = table.records[number]
    where = table.at(record)
    if column not in record.values:
        raise DataError(
            f"{where}: there is no field '{column}', which holds the text. "
            'Another name is given in task.json: {"fields": {"text": ...}}.'
        )
    text = record.values[column]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: field '{column}' must be a string that is not empty.")
    if not is_text(text):
        raise DataError(f"{where}: field '{column}' holds half a character (a lone surrogate, \\ud800 to \\udfff).")
    return text
