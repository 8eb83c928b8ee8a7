"""JSON and YAML of other people: what is refused, in which words, and what is read."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.documents import MOST_DEPTH, MOST_SHOWN, DocumentError, check_plain, parse_json, parse_yaml, shown

LEVELS = 9
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, LEVELS)
)
MERGE_BOMB = "a0: &a0 {x: [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n" + "".join(
    f"a{level}: &a{level} {{{', '.join(f'k{key}: *a{level - 1}' for key in range(10))}}}\n"
    for level in range(1, LEVELS)
)

YAML_REFUSED = {
    "two equal keys": ("method: a\nseed: 1\nmethod: b\n", "line 3: the key 'method' stands twice"),
    "two equal keys in braces": ("{a: 1, a: 2}", "line 1: the key 'a' stands twice"),
    "two equal keys inside": ("x:\n  - {p: 1}\n  - {p: 1, q: 2, p: 3}\n", "line 3: the key 'p' stands twice"),
    "two equal keys, one quoted": ('a: 1\n"a": 2\n', "line 2: the key 'a' stands twice"),
    "number as a key": ("1: x", "line 1: a key must be a word, not '1'"),
    "null as a key": ("~: x", "line 1: a key must be a word, not '~'"),
    "truth value as a key": ("on: x", "line 1: a key must be a word, not 'on'"),
    "list as a key": ("? [a]\n: b", "line 1: a key must be a word, not a list or mapping"),
    "mapping as a key": ("? {a: b}\n: b", "line 1: a key must be a word, not a list or mapping"),
    "date": ("x: 2020-01-01", "line 1: 2020-01-01 is read as a date; put it in quotes"),
    "time": ("x: 2020-01-01 10:00:00", "is read as a date"),
    "impossible date": ("x: 2020-13-45", "line 1: 2020-13-45 is read as a date"),
    "date tag": ("x: !!timestamp x", "line 1: x is read as a date"),
    "set": ("x: !!set {a, b}", "line 1: a set cannot be used here"),
    "bytes": ("x: !!binary aGk=", "line 1: binary data cannot be used here"),
    "bytes that are none": ("x: !!binary '*'", "line 1: binary data cannot be used here"),
    "ordered mapping": ("x: !!omap [a: 1]", "line 1: an ordered mapping cannot be used here"),
    "pairs": ("x: !!pairs [a: 1]", "line 1: a list of pairs cannot be used here"),
    "unknown tag": ("x: !mine a", "line 1: a value with the tag !mine cannot be used here"),
    "Python object": ("x: !!python/object/apply:os.system [ls]", "a value with the tag tag:yaml.org,2002:python"),
    "Python name": ("x: !!python/name:os.system", "a value with the tag tag:yaml.org,2002:python"),
    "default key": ("x: =", "a value with the tag tag:yaml.org,2002:value"),
    "no integer": ("x: !!int abc", "line 1: 'abc' is not a number that can be used"),
    "empty integer": ("x: !!int ''", "line 1: '' is not a number that can be used"),
    "no float": ("x: !!float abc", "line 1: 'abc' is not a number that can be used"),
    "no truth value": ("x: !!bool abc", "line 1: 'abc' is neither true nor false"),
    "5,000 digits": (f"x: {'9' * 5000}", "is not a number that can be used"),
    "5,000 hexadecimal digits": (f"x: 0x{'f' * 5000}", "is too large"),
    "20 digits": ("x: 99999999999999999999", "line 1: the number 99999999999999999999 is too large"),
    "base 60": ("x: 190:20:30", "line 1: 190:20:30 is read as 685230; put it in quotes, or write 685230"),
    "base 60 with a fraction": ("x: 20:30.5", "line 1: 20:30.5 is read as 1230.5"),
    "long base 60": (f"x: {':'.join(['59'] * 3000)}", "is too large"),
    "base 8": ("x: 010", "line 1: 010 is read as 8; put it in quotes, or write 8"),
    "deep lists": ("[" * 10_000, f"line 1: lists and mappings are nested more than {MOST_DEPTH} deep"),
    "very deep lists": ("x: " + "[" * 300_000, f"nested more than {MOST_DEPTH} deep"),
    "deep mappings": ("{a: " * 10_000, f"nested more than {MOST_DEPTH} deep"),
    "deep blocks": ("".join("  " * depth + "a:\n" for depth in range(200)), f"nested more than {MOST_DEPTH} deep"),
    "aliases of aliases": (BOMB, "there are more than 200,000 values, counting those behind aliases"),
    "aliases in mappings": (MERGE_BOMB, "there are more than 200,000 values, counting those behind aliases"),
    "alias inside of itself": ("a: &a [*a]", "line 1: the alias a stands inside of what it names"),
    "alias inside of itself, as a merge": ("a: &a\n  <<: *a\n", "stands inside of what it names"),
    "unknown alias": ("x: *nothing", "line 1: found undefined alias"),
    "long unknown alias": (f"x: *{'n' * 100_000}", "line 1: found undefined alias"),
    "merge of a number": ("<<: 3", "line 1: expected a mapping or list of mappings for merging"),
    "list called a mapping": ("x: !!map [a]", "line 1: expected a mapping node"),
    "mapping called a list": ("x: !!seq {a: b}", "line 1: expected a sequence node"),
    "list called a string": ("x: !!str [a]", "line 1: expected a scalar node"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "newer YAML": ("%YAML 9.9\n---\na", "found incompatible YAML document"),
    "not closed": ("x: [1, 2", "is not valid YAML"),
    "tab": ("a: 1\n\tb: 2\n", "is not valid YAML: line 2"),
    "two colons": ("a: b: c", "is not valid YAML: line 1"),
    "control character": ("a: \x07", "is not valid YAML"),
    "lone surrogate": ("x: \ud800", "half a character"),
    "escaped lone surrogate": ('x: "\\ud800"', "line 1"),
    "NUL": ('x: "a\\0b"', "line 1: 'a\\x00b' holds the character NUL"),
    "2 MB": ("x: [" + "1, " * 1_000_000 + "]", "has more than 2,000,000 characters"),
    "300,000 values": ("x: [" + "1, " * 300_000 + "]", "there are more than 200,000 values"),
}


@pytest.mark.parametrize("name", YAML_REFUSED)
def test_yaml_refused(name: str) -> None:
    text, says = YAML_REFUSED[name]
    begun = time.process_time()
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 250
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5, true, null, ~]", {"a": 1, "b": ["x", 2.5, True, None, None]}),
        ("x: &b {p: 1}\ny: {<<: *b, q: 2}\nz: *b", {"x": {"p": 1}, "y": {"p": 1, "q": 2}, "z": {"p": 1}}),
        ("x: &b {p: 1}\ny: {<<: *b, p: 2}", {"x": {"p": 1}, "y": {"p": 2}}),
        ("x: '2020-01-01'", {"x": "2020-01-01"}),
        ("x: 1_000\ny: 0x10\nz: 0", {"x": 1000, "y": 16, "z": 0}),
        ("x: .inf", {"x": math.inf}),
        ("x: 1e-3", {"x": "1e-3"}),
        ("x: Räder, 車", {"x": "Räder, 車"}),
        ("- - - a", [[["a"]]]),
    ],
)
def test_yaml_read(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


JSON_REFUSED = {
    "two equal keys": ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
    "two equal keys, one escaped": ('{"a": 1, "\\u0061": 3}', "the key 'a' stands twice"),
    "two equal keys inside": ('[{"x": {"a": 1, "a": 1}}]', "the key 'a' stands twice"),
    "long key twice": (f'{{"{"k" * 9999}": 1, "{"k" * 9999}": 2}}', "stands twice"),
    "NaN": ("[NaN]", "NaN is not a JSON value"),
    "infinity": ("[-Infinity]", "-Infinity is not a JSON value"),
    "too large": ("[1e999]", "the number 1e999 is too large"),
    "5,000 digits": (f"[{'1' * 5000}]", "a number has too many digits"),
    "deep lists": ("[" * 100_000, "nested too deeply"),
    "closed deep lists": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", JSON_REFUSED)
def test_json_refused(name: str) -> None:
    text, says = JSON_REFUSED[name]
    with pytest.raises(DocumentError) as caught:
        parse_json(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", '{"a": 1,}', "'a'", '"a', "nul", "01", "+1", '"\t"', '{"a" 1}', "1 2", "\ufeff1"]
)
def test_not_json(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": ["x", "\ud800"]}, "holds half a character"),
        ({"\udfff": 1}, "holds half a character"),
        ([["a\0b"]], "holds the character NUL"),
        ({"a": math.inf}, "inf is not a number that can be used"),
        (json.loads("[" * 100 + "]" * 100), f"nested more than {MOST_DEPTH} deep"),
    ],
)
def test_not_plain(value: Any, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        check_plain(value)


def bomb(levels: int) -> list[Any]:
    value: list[Any] = ["x"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (None, "None"),
        ([1, "b", {"c": (2.5, True)}], "[1, 'b', {'c': (2.5, True)}]"),
        ([[[[1]]]], "[[[...]]]"),
        ([10**5000], "[an integer of many digits]"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...]"),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_shown(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", [bomb(30), "x" * 10**6, {"k" * 10**6: 1}, "\n" * 500, [["y" * 500] * 500] * 500])
def test_shown_is_short(value: Any) -> None:
    assert len(shown(value)) <= MOST_SHOWN


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_json_that_python_writes_is_read_back(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


YAML_PIECES = st.lists(
    st.sampled_from(
        [
            *"{}[]:,-?&*!|>%@`'\"#\n \t.~=<0179exna\\",
            "!!",
            "&a ",
            "*a",
            "<<: ",
            "- ",
            ": ",
            "---",
            "...",
            "2020-01-01",
            ".inf",
            "yes",
            "0x",
            "\\ud800",
            "\ud800",
            "\0",
            "!!int ",
            "!!set ",
            "!!map ",
        ]
    ),
    max_size=40,
).map("".join)


def read_or_refused(parse: Any, text: str) -> None:
    with suppress(DocumentError, json.JSONDecodeError):
        parse(text)


@settings(max_examples=300, deadline=None)
@given(YAML_PIECES | st.text())
def test_any_yaml_is_read_or_refused(text: str) -> None:
    read_or_refused(parse_yaml, text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*'{}[]:,"\\-+.0179eEnul ', "NaN", "\\ud800", '{"a":', "true"]), max_size=40).map("".join)
    | st.text()
)
def test_any_json_is_read_or_refused(text: str) -> None:
    read_or_refused(parse_json, text)


@pytest.mark.long
@settings(max_examples=40_000, deadline=None)
@given(YAML_PIECES | st.text())
def test_any_yaml_is_read_or_refused_for_long(text: str) -> None:
    read_or_refused(parse_yaml, text)
