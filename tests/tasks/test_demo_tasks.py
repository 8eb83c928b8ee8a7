"""The demo's stream: what every user sees first must be fair, balanced and the same everywhere."""

from collections import Counter
from itertools import pairwise

import pytest

from nacre.files import hash_of
from nacre.tasks.demo import LABELS, ROWS, answers_a_label, demo_tasks, unlabelled_text
from nacre.tasks.task import SPLITS, Task

TASKS = demo_tasks()
PASSAGES = list(unlabelled_text(seed=3, lines=3000))
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def test_the_stream_is_the_same_whenever_it_is_made():
    assert demo_tasks() == TASKS
    assert len(TASKS) >= 4
    rows = [[task.name, split, row.text, row.target] for task in TASKS for split in SPLITS for row in task.rows(split)]
    # Of the rows as first released: numbers in reports of the demo are comparable only while this holds.
    assert hash_of(rows) == "3ebeda3bcfb2168937ad84a558d332f09c4a52da0e97f1d19f6ce47d0c721b3c"


def test_label_sets_have_no_label_in_common():
    labels = [label for task in TASKS for label in task.labels or ()]
    assert len(labels) == len(set(labels)) == len(LABELS)


@each_task
def test_splits_are_disjoint_and_of_the_promised_sizes(task: Task):
    texts = [{row.text for row in task.rows(split)} for split in SPLITS]
    assert [len(split) for split in texts] == [len(task.rows(split)) for split in SPLITS] == list(ROWS.values())
    assert len(set.union(*texts)) == sum(map(len, texts))


@each_task
@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(task: Task, split: str):
    counts = Counter(row.target for row in task.rows(split))
    assert set(counts) == set(task.labels or ())
    assert len(set(counts.values())) == 1


@each_task
def test_no_text_tells_its_label_and_no_single_word_does(task: Task):
    words = [(set(row.text.lower().replace(".", " ").replace(",", " ").split()), row.target) for row in task.train]
    assert not any(target in text for text, target in words)
    for label in task.labels or ():
        clue_rows = Counter(word for text, target in words if target == label for word in text)
        elsewhere = Counter(word for text, target in words if target != label for word in text)
        share = max(count / 120 for word, count in clue_rows.items() if not elsewhere[word])
        assert share < 0.5, f"one word gives away {share:.0%} of the rows labelled {label}"


@each_task
def test_the_order_of_rows_tells_nothing(task: Task):
    targets = [row.target for row in task.train]
    assert 0.15 < sum(a == b for a, b in pairwise(targets)) / len(targets) < 0.35


def test_a_prompt_has_the_layout_of_the_papers():
    example = TASKS[0].examples("test")[0]
    lines = example.input.split("\n")
    assert lines[0] == "What is the text about?"
    assert lines[1] == "Option: music, sport, weather, health "
    assert lines[3:] == ["Answer:"]


def test_unlabelled_text_depends_on_the_seed_alone():
    assert list(unlabelled_text(seed=3, lines=40)) == PASSAGES[:40]
    assert list(unlabelled_text(seed=4, lines=40)) != PASSAGES[:40]
    assert hash_of(PASSAGES[:40]).startswith("7559c8590474ace2"), "the texts of a seed are the same in every version"


def test_unlabelled_text_answers_no_label():
    assert not any(map(answers_a_label, PASSAGES))
    assert not any("\n\n" in passage or not passage.strip() for passage in PASSAGES)
    exercises = [passage for passage in PASSAGES if "Answer:" in passage]
    assert 0.3 < len(exercises) / len(PASSAGES) < 0.7
    assert all("Answer:" not in passage and "Option:" not in passage for passage in set(PASSAGES) - set(exercises))


def test_unlabelled_text_knows_every_label_as_a_word_and_no_row():
    said = {word.strip(".,!?").lower() for passage in PASSAGES for word in passage.split()}
    assert said >= LABELS
    rows = {row.text for task in TASKS for split in SPLITS for row in task.rows(split)}
    assert rows.isdisjoint(PASSAGES)


@pytest.mark.parametrize(
    ("passage", "answers"),
    [
        ("Anna loves music.", False),
        ("Which word?\nOption: lamp, oven \nThe lamp was red.\nAnswer: lamp", False),
        ("Which word?\nOption: lamp, oven \nThe lamp was red.\nAnswer: Music", True),
        ("Which word?\nOption: lamp, sport \nThe lamp was red.\nAnswer: lamp", True),
        ("The school had a lamp.\nAnswer: lamp", True),
    ],
)
def test_what_counts_as_answering_a_label(passage: str, answers: bool):
    assert answers_a_label(passage) is answers
