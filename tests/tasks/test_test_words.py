"""Test rows that are asked in other words than training rows, and tasks whose limited samples are the same rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from nacre.evaluation.scoring import normalize
from nacre.tasks.checking.findings import check_stream
from nacre.tasks.content import task_content
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

LEARNED = Template("Which color?", options=True, type_name="TC", dataset_name="colors")
ASKED = (
    Template("Name the color.", options=True, options_cue="Possible answers:", type_name="TC", dataset_name="colors"),
    Template("What color is it?", options=True, options_cue="Possible answers:", type_name="TC", dataset_name="colors"),
)
ROWS = tuple(Row(f"thing {number}", ("red", "blue")[number % 2]) for number in range(40))
TASK = Task("colors", ROWS, ROWS[:2], ROWS, LEARNED, ("red", "blue"))
REWORDED = replace(TASK, test_templates=ASKED)


def test_the_options_cue_stands_before_the_labels() -> None:
    assert LEARNED.example("a", "red", TASK.labels).before == "Which color?\nOption: red, blue \n"
    assert ASKED[0].example("a", "red", TASK.labels).before == "Name the color.\nPossible answers: red, blue \n"


def test_only_test_rows_are_asked_in_other_words() -> None:
    for split in ("train", "validation"):
        assert REWORDED.examples(split) == TASK.examples(split)
    words = {template.example("", "", TASK.labels).before: template for template in ASKED}
    examples = REWORDED.examples("test")
    counts = Counter(example.before for example in examples)
    assert set(counts) == set(words)
    assert min(counts.values()) > 10
    assert [(each.text, each.target) for each in examples] == [(row.text, row.target) for row in ROWS]


def test_the_words_of_a_row_depend_on_its_text_alone() -> None:
    asked = {example.text: example.before for example in REWORDED.examples("test")}
    backwards = replace(REWORDED, name="other", test=tuple(Row(row.text, "red") for row in reversed(ROWS[::3])))
    assert all(example.before == asked[example.text] for example in backwards.examples("test"))


def test_identity_lines_are_in_the_test_prompts_too() -> None:
    for example in REWORDED.with_identity("full").examples("test"):
        assert example.before.startswith("Task:TC\nDataset:colors\n")


def test_the_protocol_names_the_words_and_is_unchanged_without_them() -> None:
    assert "test templates" not in task_content(TASK)
    assert "options_cue" not in task_content(TASK)["template"]
    content = task_content(REWORDED)
    assert [own["options_cue"] for own in content["test templates"]] == ["Possible answers:"] * 2
    assert {**content, "test templates": None} == {**task_content(TASK), "test templates": None}


def test_a_check_names_them() -> None:
    (finding,) = [found for found in check_stream([REWORDED], normalize)["findings"] if found["kind"] == "identity"]
    assert finding["sentence"] == "test rows of 'colors' are asked in other words than its training rows: 2 prompts."


def test_tasks_of_one_sample_keep_the_same_rows() -> None:
    def kept(task: Task) -> list[str]:
        limited = task.limited(9, 9)
        return [row.text for row in (*limited.train, *limited.test)]

    other = replace(TASK, name="shapes", train=tuple(replace(row, target="blue") for row in ROWS))
    assert kept(replace(other, sampled_as="colors")) == kept(TASK)
    assert kept(other) != kept(TASK)
