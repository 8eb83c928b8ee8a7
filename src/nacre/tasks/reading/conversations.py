"""Rows that are conversations, in TRL's conventions.

The fields are `messages`, or `prompt` and `completion`: lists of turns with a role and a content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nacre.documents import shown
from nacre.errors import DataError
from nacre.tasks.reading.fields import Fields, check_columns, check_further_inputs, field_value, row_fault
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import Row, turns_text
from nacre.tasks.template import Turn

ROLES = ("system", "user", "assistant")
ASSISTANT = "assistant"


def conversation_reader(table: Table, fields: Fields) -> Callable[[RawRecord], Row]:
    """Returns what makes a conversation of a record; see `Row.turns`.

    All turns of the assistant are learned in `messages`, and those of the completion in `prompt` and `completion`, as
    TRL does by default.

    Args:
        table: The records of the split.
        fields: The names of their fields.

    Returns:
        A function. It raises `DataError` if a turn lacks a known role or a string as content, if the last turn is not
        the assistant's, or if the conversation has tools. The message names the file and the line.

    Raises:
        DataError: The file has a header that lacks the fields.
    """
    check_columns(table, fields)
    return lambda record: _row(table, record, fields)


def _row(table: Table, record: RawRecord, fields: Fields) -> Row:
    where = table.at(record)
    check_further_inputs(record, fields, where)
    turns = _turns(where, record, fields.text, learned=fields.text == fields.target)
    if fields.text != fields.target:
        turns += _turns(where, record, fields.target, learned=True)
    if turns[-1].role != ASSISTANT:
        raise DataError(
            f"{where}: the last turn has the role '{turns[-1].role}'; it must be the assistant's, the answer to learn."
        )
    if turns[0].role == ASSISTANT:
        raise DataError(f"{where}: the conversation begins with the assistant, which has nothing to answer yet.")
    text = turns_text(turns[:-1])
    if not text.strip():
        raise DataError(f"{where}: all turns before the last answer are empty.")
    return Row(text, turns[-1].content, turns=turns[:-1], place=table.place(record))


def _turns(where: str, record: RawRecord, name: str, *, learned: bool) -> tuple[Turn, ...]:
    value = field_value(record, name, where)
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{where}: field '{name}' must be a list of turns with 'role' and 'content', not {shown(value)}."
        )
    return tuple(_turn(f"{where}: field '{name}', turn {n}", turn, learned) for n, turn in enumerate(value, start=1))


def _turn(where: str, value: Any, learned: bool) -> Turn:
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        raise DataError(f"{where}: 'role' and 'content' are expected, not {shown(value)}.")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise DataError(f"{where}: unknown role {shown(role)}; the roles are {', '.join(ROLES)}.")
    # Some writers give every turn all keys and fill the unused ones with null.
    known = ("role", "content")
    if more := [key for key, entry in value.items() if key not in known and entry not in (None, [], {}, "")]:
        raise DataError(f"{where}: '{more[0]}' cannot be learned; a turn has a role and a content only.")
    if not isinstance(content, str):
        raise DataError(f"{where}: the content must be a string, not {shown(content)}.")
    if (fault := row_fault(content)) and (role != "system" or content.strip()):
        raise DataError(f"{where}: the content {fault}.")
    return Turn(role, content, learned and role == ASSISTANT)
