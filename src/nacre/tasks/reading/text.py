"""Rows of unlabeled text."""

from __future__ import annotations

from collections.abc import Callable

from nacre.documents import shown
from nacre.errors import DataError
from nacre.tasks.reading.fields import row_fault
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import Row


def text_reader(table: Table, column: str) -> Callable[[RawRecord], Row]:
    """Returns what makes a row of unlabeled text of a record.

    Args:
        table: The records of the split.
        column: The field that holds the text; other fields are ignored.

    Returns:
        A function. It raises `DataError` if the text is missing, empty or not a string; the message names the file and
        the line.
    """
    return lambda record: Row(_text(table, record, column), "")


def _text(table: Table, record: RawRecord, column: str) -> str:
    where = table.at(record)
    if column not in record.values:
        raise DataError(
            f"{where}: there is no field '{column}', which holds the text. "
            'Another name is given in task.json: {"fields": {"text": ...}}.'
        )
    text = record.values[column]
    if not isinstance(text, str):
        raise DataError(f"{where}: field '{column}' must be a string, not {shown(text)}.")
    if fault := row_fault(text):
        raise DataError(f"{where}: field '{column}' {fault}.")
    return text
