"""How answers are compared with targets: what is the same, what is right, what is a label at all."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.errors import DataError
from nacre.evaluation.scoring import is_right, normalize, normalized_labels, score
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template


def task(targets: list[str], labels: tuple[str, ...] | None) -> Task:
    """A task that asks for these targets, in this order."""
    rows = tuple(Row(f"row {number}", target) for number, target in enumerate(targets))
    return Task("mine", rows, rows, rows, Template(), labels)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Society & Culture", "society culture"),
        ("Science or Technology", "science or technology"),
        ("The A an the", "the a an the"),  # articles stay, unlike in the scorer of SQuAD
        ("  very\tnegative \n", "very negative"),
        ("very\u00a0negative", "very negative"),
        ("True.", "true"),
        ("not_entailment", "notentailment"),
        ("e-mail", "email"),
        ("it's", "its"),
        ("CAFÉ Über", "café über"),
        ("Σοφία", "σοφία"),
        ("名前。", "名前。"),  # ASCII punctuation only
        ("“quoted”", "“quoted”"),
        ("1,000.5", "10005"),
        ("-", ""),
        (string.punctuation, ""),
        (" . ! ", ""),
        ("", ""),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert normalize(text) == normal


@given(st.text())
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert not set(once) & set(string.punctuation)
    assert once == once.strip()


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("society culture", "Society & Culture", True),
        ("GOOD!", "Good", True),
        ("Good movie", "Good", False),  # no prefix counts
        ("Goo", "Good", False),
        ("the cat", "cat", False),
        ("", "Good", False),
        ("", "", False),
        ("", "-", False),  # the released scorer counts this as right
        ("...", "-", False),
        ("-", "-", False),
        (" \n", "!", False),
    ],
)
def test_is_right(answer: str, target: str, right: bool) -> None:
    assert is_right(answer, target) is right


def test_score() -> None:
    found = score(task(["yes", "no", "no", "yes", "yes"], ("yes", "no")), ["Yes.", "yes", "NO", "", "maybe"])
    assert found.right == (True, False, True, False, False)
    assert found.accuracy == 0.4
    assert found.valid == 0.6  # "Yes.", "yes" and "NO" are labels, right or wrong
    assert found.answers == ("Yes.", "yes", "NO", "", "maybe")


def test_score_of_free_text() -> None:
    found = score(task(["a blue sky", "-"], None), ["A blue, sky", ""])
    assert found.valid is None
    assert found.right == (True, False)
    assert found.accuracy == 0.5


@pytest.mark.parametrize("answers", [[], ["yes"], ["yes", "no", "no"]])
def test_answers_and_rows_belong_together(answers: list[str]) -> None:
    with pytest.raises(ValueError, match="zip"):
        score(task(["yes", "no"], ("yes", "no")), answers)


def test_labels_as_they_are_compared() -> None:
    assert normalized_labels(task(["Sports"], ("Society & Culture", "Sports"))) == {"society culture", "sports"}
    assert normalized_labels(task(["anything"], None)) == set()


@pytest.mark.parametrize(
    ("labels", "named", "becomes"),
    [
        (("yes", "no", "Yes!"), "yes", "yes"),
        (("entailment", "not entailment", "Not-Entailment", "Not  entailment"), "not entailment", "not entailment"),
        (("good", "&"), "&", ""),
        (("-", "neutral"), "-", ""),
    ],
)
def test_labels_that_cannot_be_told_apart(labels: tuple[str, ...], named: str, becomes: str) -> None:
    with pytest.raises(DataError) as caught:
        normalized_labels(task([labels[0]], labels))
    assert str(caught.value).startswith(f"Task 'mine': label '{named}' becomes '{becomes}' when answers are compared")
    assert "same as another label" in str(caught.value)
