"""The bar that a learner shows in terminals and notebooks."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from helpers.tiny import tiny_host, tiny_task
from nacre.console import PlainConsole
from nacre.evaluation.decoding import Decoding
from nacre.events import Event, RowsAnswered, StepTaken, Stopped, Warned, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.progress import ProgressBar
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=0.05, max_target_length=8, log_every=1)
DECODING = Decoding(batch_size=2, split_padding=None)
TASK = tiny_task()
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # the cursor


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("TTY_INTERACTIVE", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def screen(*, terminal: bool = True) -> Console:
    return PlainConsole(file=io.StringIO(), force_terminal=terminal, width=100)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def seen(console: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(console))


def learner_of(on_event: Callable[[Event], None] | None) -> Learner:
    return Learner(tiny_host("t5"), build_method("inc_lora"), optim=OPTIM, decoding=DECODING, on_event=on_event)


def test_a_terminal_sees_learning_and_answering() -> None:
    console = screen()
    learner = learner_of(ProgressBar(console))
    learner.learn(TASK)
    learned = seen(console)
    assert "learning" in learned
    assert "3/3 loss " in learned
    assert written(console).endswith("\x1b[2K"), "the bar is taken away"
    learner.evaluate(TASK)
    learner.predict(["a dog", "a cat", "a"])
    assert "None" not in seen(console)
    assert "6/6 rows" in seen(console)
    assert "3/3 rows" in seen(console)
    assert written(console).count(HIDDEN) == written(console).count(SHOWN) == 3


def test_a_terminal_sees_a_generator_being_taught() -> None:
    console = screen()
    method = build_method("sapt_lora", {"generator_steps": 6, "max_length": 16})
    Learner(tiny_host("t5"), method, optim=OPTIM, decoding=DECODING, on_event=ProgressBar(console)).learn(TASK)
    assert re.search(r"what writes animals .* 6/6 loss ", seen(console))
    assert "None" not in seen(console)
    assert written(console).count(HIDDEN) == written(console).count(SHOWN) == 2
    assert written(console).endswith("\x1b[2K"), "the bar is taken away"


def test_work_of_one_piece_has_no_bar() -> None:
    console = screen()
    learner = learner_of(ProgressBar(console))
    learner.predict("a dog")
    learner.predict(["a dog", "a cat"])
    assert written(console) == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_it_is_taken_away_whatever_happens(error: type[BaseException]) -> None:
    console = screen()
    bar = ProgressBar(console)

    def stopping(event: Event) -> None:
        bar(event)
        if isinstance(event, StepTaken | RowsAnswered):
            raise error

    learner = learner_of(stopping)
    with pytest.raises(error):
        learner.evaluate(TASK)
    with pytest.raises(error):
        learner.learn(TASK)
    assert written(console).count(HIDDEN) == written(console).count(SHOWN) == 2, "the cursor is back"
    assert sys.stderr is not console.file
    with Progress(console=console):  # another bar may begin
        pass


@pytest.mark.parametrize(("terminal", "kind"), [(False, "xterm-256color"), (True, "dumb")])
def test_there_is_none_where_nobody_sees_it(terminal: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", kind)
    console = screen(terminal=terminal)
    learner = learner_of(ProgressBar(console))
    learner.learn(TASK)
    learner.evaluate(TASK)
    assert written(console) == ""


class Notebook:
    """What IPython's `display(thing, display_id=True)` gives: a place that can be drawn anew."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def display(self, thing: Any, display_id: bool) -> Notebook:
        assert display_id
        self.update(thing)
        return self

    def update(self, thing: Any) -> None:
        html = thing._repr_mimebundle_(None, None)["text/html"]
        self.drawn.append(re.sub(r"<[^>]*>", "", html).strip())


def test_a_notebook_sees_it_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    module = ModuleType("IPython.display")
    module.display = notebook.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("nacre.progress.PAUSE", 0.0)
    console = PlainConsole(file=io.StringIO(), force_jupyter=True)
    learner = learner_of(ProgressBar(console))
    learner.learn(TASK)
    pictures = [re.findall(r"learning.*?(\d/3) loss \d\.\d{3}", picture) for picture in notebook.drawn[:-1]]
    assert pictures == [["1/3"], ["2/3"], ["3/3"]]
    assert notebook.drawn[-1] == "", "the bar is taken away"
    learner.evaluate(TASK)
    assert "6/6 rows" in notebook.drawn[-2]
    assert written(console) == ""


def test_a_notebook_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    module = ModuleType("IPython.display")
    module.display = notebook.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("nacre.progress.PAUSE", 1000.0)
    bar = ProgressBar(PlainConsole(force_jupyter=True))
    for done in range(1, 1001):
        bar(RowsAnswered(done=done, rows=1000))
    assert len(notebook.drawn) == 2
    assert "1000/1000" in notebook.drawn[-1]


def test_it_gets_along_with_another_bar() -> None:
    """Older versions of rich show one at a time; newer ones both."""
    console = screen()
    with Progress(console=console):
        bar = ProgressBar(console)
        for done in (1, 2):
            bar(RowsAnswered(done=done, rows=2))
        bar(Stopped())
    with Progress(console=console):
        pass


def test_warnings_are_pythons() -> None:
    with pytest.warns(UserWarning, match="Something is odd"):
        ProgressBar(screen())(Warned("Something is odd."))


def test_a_learner_has_one_unless_it_is_given_something_else() -> None:
    assert isinstance(learner_of(None).on_event, ProgressBar)
    silent = learner_of(ignore)
    assert silent.on_event is ignore
    assert silent.restart().on_event is ignore
