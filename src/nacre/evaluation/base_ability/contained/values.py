"""Plain values as text, between two processes that do not trust each other.

No pickles: whoever reads them runs what the other side wants. JSON knows no tuples, sets or bytes, and its objects have
text as keys; here a value of such a type is a pair of its type's name and its contents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """How values of one type are written and read.

    Attributes:
        type: The type.
        write: Its contents as something that JSON knows.
        read: The value from them.
    """

    type: type
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _items(values: Any) -> list[Any]:
    return [_packed(value) for value in values]


KINDS = {
    "list": Kind(list, _items, lambda items: [_unpacked(item) for item in items]),
    "tuple": Kind(tuple, _items, lambda items: tuple(_unpacked(item) for item in items)),
    "set": Kind(set, _items, lambda items: {_unpacked(item) for item in items}),
    "frozenset": Kind(frozenset, _items, lambda items: frozenset(_unpacked(item) for item in items)),
    "dict": Kind(dict, lambda value: _items(value.items()), lambda items: dict(_unpacked(item) for item in items)),
    "bytes": Kind(bytes, lambda value: value.hex(), bytes.fromhex),
    "complex": Kind(complex, repr, complex),
    "range": Kind(range, lambda value: [value.start, value.stop, value.step], lambda items: range(*items)),
    "iterator": Kind(Iterator, _items, lambda items: iter([_unpacked(item) for item in items])),
}


def written(value: Any) -> bytes:
    """The value as one line.

    Args:
        value: Made of Python's own plain types; an iterator is followed to its end.

    Raises:
        TypeError: A part of it has another type.
    """
    return json.dumps(_packed(value)).encode() + b"\n"


def read(line: bytes) -> Any:
    """The value of a line.

    Args:
        line: As `written` makes it.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: It is not such a line.
    """
    return _unpacked(json.loads(line))


def _packed(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for name, kind in KINDS.items():
        if isinstance(value, kind.type):
            return [name, kind.write(value)]
    raise TypeError(f"a value of type {type(value).__name__} cannot leave the program's process")


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        name, contents = value
        return KINDS[name].read(contents)
    return value
