"""The first day with nacre: what people type that failed or misled them once, and what it comes to.

What other tests hold is named in `ELSEWHERE`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.command import Call, contents

TESTS = Path(__file__).parents[1]
OWN_METHOD = '''
from nacre.method import Method, method
from nacre.methods.inc_lora import inc_lora


@method
def wide(*, rank: int = 32) -> Method:
    """More dimensions.

    Args:
        rank: Of each update.
    """
    return inc_lora(rank=rank)
'''
OWN_STREAM = "name: own\ntasks:\n  - {name: mails, train: data/mails/train.jsonl, test: data/mails/test.jsonl}\n"
SEQ_LORA = ("run", "--method", "seq_lora")

COMMANDS: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "a method's name": (("run", "--method", "seqlora"), 2, ("no method 'seqlora'. Did you mean seq_lora",)),
    "a setting's name": ((*SEQ_LORA, "--set", "rnk=4"), 2, ("no parameter 'rnk'. Did you mean rank?",)),
    "a key that has 'int' in it": (
        (*SEQ_LORA, "--set", "optim.checkpointing=true"),
        2,
        ("no key 'optim.checkpointing'",),
    ),
    "a word for a number": ((*SEQ_LORA, "--set", "rank='8'"), 2, ("rank = '8'", "a whole number is expected")),
    "tasks of an own stream": (("streams", "mine.yaml"), 0, ("own", "A stream file: 1 tasks", "mails")),
    "tasks of no stream": (("streams", "yours.yaml"), 2, ("Stream file yours.yaml cannot be read",)),
    "an own stream": ((*SEQ_LORA, "--stream", "mine.yaml", "--dry-run"), 0, ("stream         own", "mails")),
    "a method in a file": (
        ("run", "--method", "./own.py", "--dry-run"),
        0,
        ("runs/demo-own.py-seed0", "4,000 answers in all"),
    ),
    "a method by its name in a file": (("run", "--method", "./own.py:wide", "--dry-run"), 0, ("answers in all",)),
    "no such method in a file": (("run", "--method", "./own.py:narrow", "--dry-run"), 2, ("narrow",)),
    "how much will be answered": (
        (*SEQ_LORA, "--limit-test", "10", "--dry-run"),
        0,
        ("full matrix, on test rows, 200 answers in all",),
    ),
    "one table without a test file": (
        ("check", "tickets.csv"),
        0,
        ("one file and no test rows: 4 of its rows, drawn with seed 0, are the test rows",),
    ),
    "all bad rows at once": (
        ("check", "bad"),
        2,
        ("line 4", "line 5", "line 10", "line 11", "leave them out with --skip-bad-rows"),
    ),
    "without the bad rows": (("check", "bad", "--skip-bad-rows", "--fold-labels"), 0, ("unreadable",)),
    "one task of a folder": (
        (*SEQ_LORA, "--data", "data", "--stream", "mails", "--dry-run"),
        0,
        ("runs/mails-seq_lora-seed0", "mails"),
    ),
    "a recipe without its model": (("run", "unset.yaml", "--dry-run"), 0, ("$NO_SUCH_MODEL", "pass --model")),
    "no test file beside two others": (("check", "lone"), 2, ("lone",)),
}

ELSEWHERE = {
    "a typo costs no heavy import": "cli/test_startup.py::test_it_is_answered_without_torch",
    "nacre.run": "runs/test_own_methods.py::test_a_method_put_together_in_python_is_run",
    "folders tell runs apart": "runs/test_own_methods.py::test_folders_tell_runs_apart",
    "RUN/recipe.yaml --seed 5": "runs/test_own_methods.py::test_a_runs_recipe_with_another_seed_is_another_run",
    "interrupted between two answers": "runs/test_resume.py::test_stopped_between_two_answers",
    "time and memory on request": "runs/test_dry_run.py::test_a_run_is_estimated_from_a_few_steps",
    "torchrun": "runs/test_processes.py::test_processes_of_something_else_end_with_one_line",
    "rights of saved files": "learning/test_saving.py::test_saved_files_are_for_whoever_may_read_new_files",
    "save_pretrained, merged": "learning/test_learner.py::test_what_depends_on_the_input_cannot_be_merged",
    "CSV, Markdown, LaTeX": "records/test_compare.py::test_csv_holds_every_digit",
    "figures": "records/test_compare.py::test_figures_are_images_that_need_nothing",
    "an average over orders": "records/test_compare.py::test_an_average_over_orders_by_hand",
    "no interval beyond 100 %": "records/test_compare.py::test_no_interval_leaves_what_is_possible",
    "verdicts are sentences": "records/test_compare.py::test_a_verdict_reads_as_a_sentence",
    "the page begins with its result": "report/test_report.py::test_the_page_begins_with_its_result",
    "the page's settings": "report/test_report.py::test_the_head_says_how_it_was_trained_with_what_and_when",
    "answers, right and wrong": "report/test_report.py::test_answers_are_shown_right_and_wrong_and_shortened",
    "the loss": "report/test_report.py::test_the_loss_is_drawn_over_the_steps_of_all_tasks",
    "Learner's mistakes, predict('abc'), evaluate(task)": "learning/test_learner.py::test_a_mistake_is_one_sentence",
    "no rows, a learned task": "learning/test_learner.py::test_nothing_happens_where_there_is_nothing_to_learn",
    "evaluate after an interrupted learn": "learning/test_learner.py::test_a_learner_that_is_over_answers_nothing",
    "short reprs": "learning/test_learner.py::test_what_is_shown_is_short",
    "dir(nacre)": "learning/test_learner.py::test_public_names_are_listed_without_torch",
    "a bar in Python": "learning/test_progress.py::test_a_terminal_sees_learning_and_answering",
    "a bar in notebooks": "learning/test_progress.py::test_a_notebook_sees_it_without_widgets",
    "transformers' own bars": "models/test_loading.py::test_loading_leaves_transformers_as_talkative_as_it_was",
    "the page's path at the end": "cli/test_screen.py::test_a_run_reports_each_batch_of_answers_and_keeps_none_of_it",
    "80 columns": "cli/test_screen.py::test_commands_break_between_words",
    "one line for trained parameters": "cli/test_screen.py::test_trained_parameters_take_one_line_unless_asked_for",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with somebody's files, where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_SUCH_MODEL", raising=False)
    (tmp_path / "own.py").write_text(OWN_METHOD)
    (tmp_path / "mine.yaml").write_text(OWN_STREAM)
    (tmp_path / "unset.yaml").write_text("method: seq_lora\nmodel: $NO_SUCH_MODEL\n")
    (tmp_path / "tickets.csv").write_text(
        "text,label\n" + "".join(f"ticket {number},{'ab'[number % 2]}\n" for number in range(40))
    )
    mixed: list[str | None] = ["Billing", "billing ", "billing", None, "", "other"]
    for name, labels in {"data/mails": ["a", "b"] * 6, "bad": mixed * 4, "lone": ["a", "b"]}.items():
        (tmp_path / name).mkdir(parents=True)
        rows = [json.dumps({"text": f"row {number}", "label": label}) for number, label in enumerate(labels)]
        (tmp_path / name / "train.jsonl").write_text("\n".join(rows) + "\n")
        test = "other.jsonl" if name == "lone" else "test.jsonl"
        (tmp_path / name / test).write_text(json.dumps({"text": "a question", "label": "other"}) + "\n")
    (tmp_path / "data" / "mails" / "test.jsonl").write_text('{"text": "a question", "label": "a"}\n')
    return tmp_path


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_comes_to_what_it_should(nacre: Call, desk: Path, what: str) -> None:
    command, code, says = COMMANDS[what]
    before = contents(desk)
    said = nacre(*command)
    assert said.code == code, said
    text = " ".join((said.err if code else said.out).replace(str(desk), ".").split())
    for part in says:
        assert " ".join(part.split()) in text
    assert "Traceback" not in said.err
    if code:
        assert said.err.startswith("Error: ")
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert contents(desk) == before, "nothing is written"


def test_what_is_held_elsewhere_is_there() -> None:
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8"), place
