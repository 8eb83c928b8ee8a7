"""Rows that are conversations, in TRL's conventions: ``messages``, or ``prompt`` and ``completion``, as lists of turns
with a role and a content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nacre.errors import DataError
from nacre.tasks.reading.fields import Fields, Placed, check_columns, field_value, is_text
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import Row, said
from nacre.tasks.template import Turn

ROLES = ("system", "user", "assistant")
ASSISTANT = "assistant"

_ELSE = ("tools", "chat_template_kwargs")
"""Columns in which TRL finds what else a chat template is given."""


def read_conversations(table: Table, fields: Fields) -> list[Placed]:
    """The conversations of a split in the order of its records; see ``Row.turns``.

    Of ``messages``, all turns of the assistant are learnt; of ``prompt`` and ``completion``, those of the completion,
    as TRL does by default. ``DataError`` with file and line for turns without a known role or a string as content, for
    a conversation whose last turn is not the assistant's, and for tools, which are not learnt.
    """
    check_columns(table, fields)
    return [Placed(_row(table, record, fields), table.at(record)) for record in table.records]


def _row(table: Table, record: RawRecord, fields: Fields) -> Row:
    where = table.at(record)
    for name in _ELSE:
        if record.values.get(name):
            raise DataError(f"{where}: conversations with '{name}' are not learnt; take the field out, or the row.")
    turns = _turns(where, record, fields.text, learned=fields.text == fields.target)
    if fields.text != fields.target:
        turns += _turns(where, record, fields.target, learned=True)
    if turns[-1].role != ASSISTANT:
        raise DataError(
            f"{where}: the last turn is of '{turns[-1].role}'; it must be the assistant's, whose answer is learnt."
        )
    if turns[0].role == ASSISTANT:
        raise DataError(f"{where}: the conversation begins with the assistant, which has nothing to answer there.")
    text = said(turns[:-1])
    if not text.strip():
        raise DataError(f"{where}: all turns before the last answer are empty.")
    return Row(text, turns[-1].content, turns=turns[:-1])


def _turns(where: str, record: RawRecord, name: str, *, learned: bool) -> tuple[Turn, ...]:
    value = field_value(record, name, where)
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{where}: field '{name}' must be a list of turns with 'role' and 'content', not {value!r:.60}."
        )
    return tuple(_turn(f"{where}: field '{name}', turn {n}", one, learned) for n, one in enumerate(value, start=1))


def _turn(where: str, value: Any, learned: bool) -> Turn:
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        raise DataError(f"{where}: 'role' and 'content' are expected, not {value!r:.60}.")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise DataError(f"{where}: role {role!r} is not known; the roles are {', '.join(ROLES)}.")
    # Some writers fill up all that other turns have with null.
    if more := [key for key, one in value.items() if key not in ("role", "content") and one not in (None, [], {}, "")]:
        raise DataError(f"{where}: '{more[0]}' is not learnt; a turn has a role and a content only.")
    if not isinstance(content, str):
        raise DataError(f"{where}: the content must be a string, not {content!r:.60}.")
    if role != "system" and not content.strip():
        raise DataError(f"{where}: the content is empty.")
    if not is_text(content):
        raise DataError(f"{where}: the content holds half a character (a lone surrogate, \\ud800 to \\udfff).")
    return Turn(role, content, learned and role == ASSISTANT)
