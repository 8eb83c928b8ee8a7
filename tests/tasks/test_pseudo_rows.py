"""Rows in one string, and taken apart again."""

from __future__ import annotations

from nacre.tasks.pseudo_rows import parse_rows, row_as_text
from nacre.tasks.task import Row


def test_a_row_comes_back() -> None:
    text = row_as_text("a  big\ndog", "Yes", "Answer:")
    assert text == "a big dog Answer: Yes"
    assert parse_rows([text], "Answer:", ("yes", "no"), 1).rows == (Row("a big dog", "yes"),)
    assert parse_rows([text], "Answer:", None, 1).rows == (Row("a big dog", "Yes"),)


def test_what_is_kept_and_what_is_counted() -> None:
    samples = [
        "a dog Answer: yes",
        "a dog answer : YES",  # the same row, as a tokenizer without capitals writes it
        "a cow Answer: yes",
        "a hen Answer: yes",  # one too many of this label
        "a lamp Answer: no",
        "a rose Answer: maybe",  # no label of the task
        "a rose",  # no separator
        "a Answer: b Answer: no",  # two of them
        "Answer: no",  # no text
        "a chair Answer:",  # no answer
        "",
    ]
    found = parse_rows(samples, " Answer: ", ("yes", "no"), 2)
    assert found.rows == (Row("a dog", "yes"), Row("a cow", "yes"), Row("a lamp", "no"))
    assert (found.drawn, found.parsed, found.duplicates) == (11, 5, 1)
    assert found.labels == {"yes": 2, "no": 1}


def test_free_text_has_one_limit() -> None:
    found = parse_rows(["a = b", "c = d", "e = f"], "=", None, 2)
    assert found.rows == (Row("a", "b"), Row("c", "d"))
    assert found.labels == {}
