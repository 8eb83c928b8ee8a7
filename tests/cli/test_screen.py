"""The terminal: no word is broken, no column is cut, color says something and is off where it should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from helpers.command import Call, assert_one_line_error
from nacre.cli.display import Display
from nacre.cli.screen import BEST, WORST, Grid, extremes, percent, print_error, say
from nacre.events import EvaluationStarted, RowsAnswered, StageStarted, StepTaken, Stopped, TrainingPrepared, Warned

HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # the cursor

WORDS = (
    "In short, sentences of unequal length, with a/very/long/path/that-is/wider-than/the-narrowest/of-the-terminals/"
    "here.json inside, are wrapped between their words and nowhere else, whatever the width of the terminal may be."
)


def console(width: int, *, terminal: bool = True) -> Console:
    return Console(width=width, force_terminal=terminal, no_color=True, highlight=False, markup=False)


def printed(act: Callable[[Console], object], width: int, *, terminal: bool = True) -> list[str]:
    screen = console(width, terminal=terminal)
    with screen.capture() as capture:
        act(screen)
    return capture.get().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_lines_break_between_words(width: int) -> None:
    lines = printed(lambda screen: say(screen, WORDS), width)
    assert [word for line in lines for word in line.split()] == WORDS.split()
    assert all(len(line) <= width or " " not in line for line in lines)
    assert len(lines) > 1


def test_a_file_gets_a_line_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert printed(lambda screen: say(screen, WORDS), 40, terminal=False) == [WORDS]


@pytest.mark.parametrize("width", [20, 33, 60, 80])
@pytest.mark.parametrize("tasks", [1, 4, 15])
def test_every_number_of_a_table_is_printed_whole(width: int, tasks: int) -> None:
    headings = ["after", *(f"task-{number}" for number in range(tasks))]
    rows = [(f"task-{row}", *(f"{row}.{column:02d}" for column in range(tasks))) for row in range(tasks)]
    lines = printed(Grid("scores", headings, rows).print, width)
    assert all(len(line) <= width for line in lines)
    words = [word for line in lines for word in line.split()]
    for row in rows:
        for cell in row[1:]:
            assert words.count(cell) == 1, cell
        assert row[0] in words
    # Every line of numbers says what it is of.
    assert all(line.split()[0] in headings for line in lines[1:])


def test_a_table_in_a_file_has_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [("row", *(str(column) for column in range(100)))]
    lines = printed(Grid("", ["name", *(f"c{column}" for column in range(100))], rows).print, 80, terminal=False)
    assert [line.split() for line in lines] == [["name", *(f"c{n}" for n in range(100))], list(rows[0])]


@pytest.mark.parametrize(
    ("values", "lower", "colors"),
    [
        ([0.1, 0.3, 0.2], False, [WORST, BEST, ""]),
        ([0.1, 0.3, 0.2], True, [BEST, WORST, ""]),
        ([0.1, None, 0.1], False, ["", "", ""]),
        ([None, 0.2, 0.1], False, ["", BEST, WORST]),
        ([0.3], False, [""]),
    ],
)
def test_the_best_and_the_worst_have_a_color(values: list[float | None], lower: bool, colors: list[str]) -> None:
    assert extremes(values, lower_is_better=lower) == colors


@pytest.mark.parametrize(("variables", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_color_is_off_where_the_terminal_says_so(
    variables: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    screen = Console(force_terminal=True, highlight=False, markup=False)
    with screen.capture() as capture:
        say(screen, "Warning: so it is.", "yellow")
    assert ("\x1b[33m" in capture.get()) is colored


@pytest.mark.parametrize("columns", [None, "40"])
def test_an_error_is_one_line_for_programs(nacre: Call, columns: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    said = nacre("run", "--method", "no_such_method_of_this_name_or_another")
    assert_one_line_error(said, "no_such_method")


def test_an_error_on_a_terminal_is_colored_and_breaks_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "40"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_error(WORDS)
    err = capsys.readouterr().err
    assert "\x1b[1;31m" in err
    lines = re.sub(r"\x1b\[[\d;]*m", "", err).splitlines()
    assert len(lines) > 2
    assert [word for line in lines for word in line.split()] == ["Error:", *WORDS.split()]


def test_nothing_gained_has_no_sign() -> None:
    assert [percent(value, sign=True) for value in (None, 0.031, -0.031, 0.0, -0.0001)] == [
        "-",
        "+3.1",
        "-3.1",
        "0.0",
        "0.0",
    ]
    assert [percent(value) for value in (1.0, -0.0001)] == ["100.0", "0.0"]


def test_trained_parameters_take_one_line_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose, lines in ((False, 1), (True, 3)):
        show = Display(verbose=verbose)
        show(StageStarted(number=2, stages=4, name="mood"))
        show(TrainingPrepared(groups=[("down", 1200), ("up", 34)]))
        said = capsys.readouterr().out
        assert said.splitlines()[0] == "task 2 of 4: mood: 1,234 trained parameters"
        assert len(said.splitlines()) == lines
        assert ("down 1,200" in said) is verbose


def test_learning_and_measuring_move_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    show = Display()
    show(StageStarted(number=1, stages=2, name="mood"))
    for step in (1, 2):
        show(StepTaken(step=step, steps=2, loss=1.0, terms={}, rate=0.1))
    show(Stopped())
    learned = capsys.readouterr().out
    assert "task 1 of 2: mood" in learned
    assert "loss 1.000  rate 1.0e-01" in learned
    show(EvaluationStarted(row=1, tasks=2))
    for done in (64, 100):
        show(RowsAnswered(done=done, rows=100))
    show(Warned("w"))
    show(Stopped())
    measured = capsys.readouterr().out
    assert "measuring after task 1" in measured
    assert "100/100" in measured
    for said in (learned, measured):
        assert said.count(HIDDEN) == said.count(SHOWN) == 1, "the cursor is back"


def test_a_run_reports_each_batch_of_answers_and_keeps_none_of_it(
    nacre: Call, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from nacre.runs.recipe import read_recipe
    from nacre.runs.run import run

    seen: list[tuple[int, int]] = []
    flags = {"method": "seq_lora", "output": str(tmp_path / "run"), "limit_train": 4, "limit_test": 6}
    recipe = read_recipe(None, flags, ["evaluation.batch_size=8", "evaluation.split_padding=null"])
    run(recipe, lambda event: seen.append((event.done, event.rows)) if isinstance(event, RowsAnswered) else None)
    assert seen == [(8, 24), (16, 24), (24, 24)] * 5  # four tasks of six rows, before any and after each
    assert "RowsAnswered" not in (tmp_path / "run" / "events.jsonl").read_text()
    assert '"done"' not in (tmp_path / "run" / "events.jsonl").read_text()
    said = nacre("run", tmp_path / "run" / "recipe.yaml")
    assert said.out.splitlines()[-1] == f"The page: {tmp_path / 'run' / 'report.html'}"


@pytest.mark.parametrize(
    "command",
    [("methods",), ("methods", "am_lora"), ("methods", "lb_cl+migu"), ("methods", "+migu"), ("streams",),
     ("streams", "superni1"), ("check", "--stream", "demo"), ("run", "--method", "am_lora", "--dry-run")],
    ids=" ".join,
)  # fmt: skip
def test_commands_break_between_words(nacre: Call, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    words = nacre(*command).out.split()
    assert words
    for width in (80, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        said = nacre(*command)
        assert said.out.split() == words
        assert all(len(line) <= width or len(line.split()) == 1 for line in said.out.splitlines())
