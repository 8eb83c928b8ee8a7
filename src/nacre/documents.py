"""JSON and YAML that somebody else wrote: read within limits, or refused in a phrase that says what is wrong.

Python's own readers take the last of two equal keys, follow an alias as often as it stands there, and end in five kinds
of exceptions where a text is nested too deeply or a number too long. Every document that nacre reads passes here.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

MOST_YAML = 2_000_000
"""Characters of a YAML text. A recipe has a few thousand, a stream of a thousand tasks some hundred thousand."""
MOST_DEPTH = 50
"""Lists and mappings inside one another."""
MOST_VALUES = 200_000
"""Values of a YAML document, those behind aliases counted as often as they are named."""
MOST_SHOWN = 80
"""Characters of a value that a message shows."""

HALF_A_CHARACTER = "holds half a character (a lone surrogate, \\ud800 to \\udfff)"


class DocumentError(ValueError):
    """Why a text cannot be used: the end of a sentence that begins with its place."""


def parse_json(text: str) -> Any:
    """Reads a JSON value.

    Args:
        text: The whole text.

    Returns:
        Plain values; every number is finite.

    Raises:
        json.JSONDecodeError: The text is not JSON; it knows the line and the column.
        DocumentError: The text is JSON that cannot be used: a key stands twice in an object, it is nested too deeply,
            or a number is infinite, not a number or too long.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except (json.JSONDecodeError, DocumentError):
        raise
    except RecursionError:
        raise DocumentError("lists and objects are nested too deeply") from None
    except ValueError:  # an integer beyond sys.get_int_max_str_digits()
        raise DocumentError("a number has too many digits") from None


def parse_yaml(text: str) -> Any:
    """Reads a YAML document of plain values: strings, numbers, true, false, null, lists and mappings.

    Args:
        text: The whole text.

    Returns:
        Plain values; the keys of every mapping are strings, and differ. Numbers may be infinite or not a number.

    Raises:
        DocumentError: The text is not YAML, or cannot be used; the phrase names the line.
    """
    if len(text) > MOST_YAML:
        raise DocumentError(f"has more than {MOST_YAML:,} characters")
    try:
        _check_size(yaml.parse(text, SafeLoader))
        return yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, shown_text(f"{error.problem}")
        raise DocumentError(f"is not valid YAML: {f'line {mark.line + 1}: ' if mark else ''}{problem}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"is not valid YAML: {shown_text(' '.join(str(error).split()))}") from None
    except UnicodeEncodeError:
        raise DocumentError("is not valid YAML: it holds half a character (a lone surrogate)") from None


def check_plain(value: Any) -> None:
    """Refuses what JSON can spell and no file or prompt can hold.

    Raises:
        DocumentError: A string, key or number inside the value is at fault, or the value is nested too deeply.
    """
    waiting = [(value, 1)]
    while waiting:
        inner, depth = waiting.pop()
        if isinstance(inner, (dict, list)):
            if depth > MOST_DEPTH:
                raise DocumentError(f"lists and objects are nested more than {MOST_DEPTH} deep")
            entries = [*inner, *inner.values()] if isinstance(inner, dict) else inner
            waiting += [(entry, depth + 1) for entry in entries]
        elif isinstance(inner, str) and (fault := text_fault(inner)):
            raise DocumentError(f"{shown(inner)} {fault}")
        elif isinstance(inner, float) and not math.isfinite(inner):
            raise DocumentError(f"{inner} is not a number that can be used")


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; the escapes of JSON can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_fault(text: str) -> str | None:
    """Why a string can be neither a file's name nor part of a prompt, as the end of a sentence; None if it can."""
    if not is_text(text):
        return HALF_A_CHARACTER
    return "holds the character NUL (\\0)" if "\0" in text else None


def shown(value: Any) -> str:
    """A value as messages show it: short, however large, deep or often named by aliases the value is."""
    return shown_text(_shown(value, 3))


def shown_text(text: str) -> str:
    """A text as messages show it, cut where it is long."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _shown(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return repr(value[:MOST_SHOWN])
    if isinstance(value, int) and value.bit_length() > 300:
        return "an integer of many digits"
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return repr(value)
    if value and not depth:
        return "..."
    first = list(islice(value.items() if isinstance(value, dict) else value, 10))
    if isinstance(value, dict):
        inner = [f"{_shown(key, depth - 1)}: {_shown(entry, depth - 1)}" for key, entry in first]
    else:
        inner = [_shown(entry, depth - 1) for entry in first]
    left, right = {list: ("[", "]"), tuple: ("(", ")")}.get(type(value), ("{", "}"))
    more = ["..."] if len(value) > len(first) else []
    return f"{left}{', '.join([*inner, *more])}{right}"


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise DocumentError(f"the key {shown(twice)} stands twice in one object")
    return values


def _constant(name: str) -> None:
    raise DocumentError(f"not valid JSON ({name} is not a JSON value)")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DocumentError(f"the number {shown_text(text)} is too large")
    return value


def _check_size(events: Iterator[yaml.Event]) -> None:
    """Counts the values of a document before any is made, so that aliases cannot multiply without end."""
    open_nodes: list[tuple[str | None, int]] = []  # each with its anchor, and the number of values before it
    sizes: dict[str, int] = {}
    values = 0
    for event in events:
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            values += 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, values - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise _at(event, f"the alias {shown_text(str(event.anchor))} stands inside of what it names")
            values += sizes.get(str(event.anchor), 1)  # the loader answers an alias that names nothing
        if len(open_nodes) > MOST_DEPTH:
            raise _at(event, f"lists and mappings are nested more than {MOST_DEPTH} deep")
        if values > MOST_VALUES:
            raise _at(event, f"there are more than {MOST_VALUES:,} values, counting those behind aliases")


def _at(place: yaml.Event | yaml.Node, phrase: str) -> DocumentError:
    line = f"line {place.start_mark.line + 1}: " if place.start_mark else ""
    return DocumentError(f"cannot be read: {line}{phrase}")


class _PlainLoader(SafeLoader):
    """Makes plain values only, and names the line of whatever is none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses keys that stand twice or are no strings; `<<: *name` is filled in as in any YAML."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # super() refuses other nodes
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str" or not isinstance(key, yaml.ScalarNode):
                what = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _at(key, f"a key must be a word, not {what}; put it in quotes")
            if key.value in seen:
                raise _at(key, f"the key {shown(key.value)} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _string(self, node: yaml.ScalarNode) -> str:
        value = str(self.construct_scalar(node))
        if fault := text_fault(value):
            raise _at(node, f"{shown(value)} {fault}")
        return value

    def _number(self, node: yaml.ScalarNode) -> Any:
        make = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        try:
            value = make(node)
        except (ValueError, IndexError, OverflowError):
            raise _at(node, f"{shown(node.value)} is not a number that can be used") from None
        if isinstance(value, int) and value.bit_length() > 64:
            raise _at(node, f"the number {shown_text(node.value)} is too large")
        if re.fullmatch(r"[-+]?0[0-9_]+|.*:.*", node.value):  # base 8 and base 60, as YAML 1.1 has it
            raise _at(node, f"{node.value} is read as {value}; put it in quotes, or write {value}")
        return value

    def _switch(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.construct_yaml_bool(node)
        except KeyError:
            raise _at(node, f"{shown(node.value)} is neither true nor false") from None

    def _other(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "timestamp":
            raise _at(node, f"{shown_text(str(node.value))} is read as a date; put it in quotes")
        names = {"set": "a set", "binary": "binary data", "omap": "an ordered mapping", "pairs": "a list of pairs"}
        what = names.get(kind, f"a value with the tag {shown_text(node.tag)}")
        raise _at(node, f"{what} cannot be used here; write a list, a mapping or a string")


for _tag, _construct in {
    "null": _PlainLoader.construct_yaml_null,
    "bool": _PlainLoader._switch,
    "int": _PlainLoader._number,
    "float": _PlainLoader._number,
    "str": _PlainLoader._string,
    "seq": _PlainLoader.construct_yaml_seq,
    "map": _PlainLoader.construct_yaml_map,
    **dict.fromkeys(("timestamp", "set", "binary", "omap", "pairs"), _PlainLoader._other),
}.items():
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_PlainLoader.add_constructor(None, _PlainLoader._other)
