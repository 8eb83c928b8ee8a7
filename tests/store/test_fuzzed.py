"""Whatever somebody writes, a reader of the store's gives a value or one line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.errors import CheckpointError, DataError, NacreError, RecipeError
from nacre.records.gate_verdict import read_verdict
from nacre.store.answering import Question, question_of, read_questions
from nacre.store.gate import MustKeep
from nacre.store.store import Store
from nacre.store.version import read_version

KEYS = st.sampled_from(["text", "messages", "task", "x"])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


def read_or_refused(read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a reader gives, or the error by which it refuses."""
    try:
        return read(*arguments, **options)
    except NacreError as error:
        return error


@given(st.text() | st.text("ab:,-*pt. 0123", max_size=30))
def test_requirements(text: str) -> None:
    gate = read_or_refused(MustKeep.of, text)
    if isinstance(gate, RecipeError):
        return
    assert gate.limits
    assert all(0 <= limit <= 1 for limit in gate.limits.values())
    assert MustKeep.of(gate.text) == gate


@given(PLAIN, st.text(max_size=5))
def test_questions(document: Any, task: str) -> None:
    question = read_or_refused(question_of, document, task)
    if not isinstance(question, DataError):
        assert isinstance(question.asked, str | list)
        assert isinstance(question.task, str)


@given(st.text(), st.booleans())
def test_lines_of_questions(text: str, json_lines: bool) -> None:
    questions = read_or_refused(read_questions, text, json_lines=json_lines, task="")
    if isinstance(questions, DataError):
        assert str(questions).startswith("Line ")
    else:
        assert len(questions) == sum(bool(line.removesuffix("\r").strip()) for line in text.split("\n"))


@given(st.lists(st.text(st.characters(blacklist_characters="\n\r\0", blacklist_categories=["Cs"]), min_size=1)))
def test_texts_come_through(texts: list[str]) -> None:
    asked = [text for text in texts if text.strip()]
    assert [each.asked for each in read_questions("\n".join(texts), json_lines=False, task="a")] == asked
    lines = "\n".join(json.dumps({"text": text}) for text in asked)
    assert read_questions(lines, json_lines=True, task="a") == [Question(text, "a") for text in asked]


@settings(max_examples=200)
@given(st.binary(max_size=200) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_files_of_a_store(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for name in ("store.json", "version.json", "current"):
            (path / name).write_bytes(content)
        for read in (Store.open, read_version):
            refused = read_or_refused(read, path)
            assert isinstance(refused, CheckpointError)
            assert "damaged" in str(refused) or "schema" in str(refused)


@given(st.text() | PLAIN.map(json.dumps))
def test_verdicts(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 whatever the reason, its reader names the file
        read_verdict(text)
