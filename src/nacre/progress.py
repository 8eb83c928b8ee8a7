"""How far something is: a bar in terminals and notebooks, and nothing elsewhere."""

from __future__ import annotations

import importlib
import time
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.errors import LiveError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nacre.console import PlainConsole
from nacre.events import Event, GeneratorTaught, RowsAnswered, StepTaken, Stopped, only_warn
from nacre.printable import printable

PAUSE = 0.1
"""Seconds between two pictures of a notebook's bar: each is a message to a browser."""


class ProgressLine:
    """A bar with numbers beside it, which is taken away when what it shows is over.

    Work of a single piece has none: it would be gone as it appears.
    """

    def __init__(self, console: Console) -> None:
        """Nothing is shown yet.

        Args:
            console: Where to. In a file, a pipe or a terminal that cannot move its cursor there is no bar.
        """
        self._console = console
        self._progress: Progress | None = None
        self._picture: Any = None  # in a notebook, what shows the bar and can be drawn anew
        self._drawn = 0.0

    def move(self, label: str, done: int, total: int, numbers: str = "") -> None:
        """Show how far it is.

        Args:
            label: What is done, before the bar.
            done: How many pieces are done.
            total: How many there are.
            numbers: What else to say, behind the bar.
        """
        if self._progress is None:
            if done >= total or not self._is_seen():
                return
            self._progress = _bar(self._console)
        (task,) = self._progress.task_ids
        self._progress.update(
            task, description=printable(label), completed=done, total=total, numbers=printable(numbers)
        )
        if self._console.is_jupyter:
            self._draw(self._progress, over=done >= total)
        else:
            with suppress(LiveError):  # older versions of rich show one bar at a time
                self._progress.start()

    def drop(self) -> None:
        """Take the bar away, if there is one."""
        if self._progress is None:
            return
        if self._picture is not None:
            self._picture.update(Text(""))
        self._progress.stop()
        self._progress = self._picture = None

    def _is_seen(self) -> bool:
        return self._console.is_jupyter or (self._console.is_terminal and self._console.is_interactive)

    def _draw(self, progress: Progress, *, over: bool) -> None:
        """Show the bar in a notebook.

        rich's own way needs ipywidgets, which not every notebook has; a display that is drawn anew needs nothing.
        """
        now = time.monotonic()
        if self._picture is None:
            self._picture = importlib.import_module("IPython.display").display(progress, display_id=True)
        elif over or now - self._drawn > PAUSE:
            self._picture.update(progress)
        else:
            return
        self._drawn = now


def _bar(console: Console) -> Progress:
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}", markup=False),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    progress.add_task("", numbers="")
    return progress


class ProgressBar:
    """The `on_event` of a learner that is given no other: a bar for learning and answering, and Python's warnings.

        bar = ProgressBar()

        def on_event(event: Event) -> None:
            bar(event)
            match event:
                case StepTaken(step=step, loss=loss):
                    losses[step] = loss

    The bar moves on standard error of a terminal, and in notebooks; elsewhere there is none. A learner without a bar
    has another `on_event`, such as `nacre.events.only_warn`.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Nothing is shown yet.

        Args:
            console: Where to; by default standard error as it is when the bar appears.
        """
        self._console = console
        self._line: ProgressLine | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case StepTaken(step=step, steps=steps, loss=loss):
                self._move("learning", step, steps, f"loss {loss:.3f}")
            case GeneratorTaught(task=task, step=step, steps=steps, loss=loss):
                self._move(f"what writes {task}", step, steps, f"loss {loss:.3f}")
            case RowsAnswered(done=done, rows=rows):
                self._move("answering", done, rows, "rows")
            case Stopped() if self._line is not None:
                self._line.drop()
                self._line = None
            case _:
                only_warn(event)

    def _move(self, label: str, done: int, total: int, numbers: str) -> None:
        if self._line is None:
            self._line = ProgressLine(self._console or PlainConsole(stderr=True))
        self._line.move(label, done, total, numbers)
