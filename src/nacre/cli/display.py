"""What a person sees while something runs, and of what came out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nacre.cli.console import PlainConsole
from nacre.events import (
    EvaluationStarted,
    Event,
    FreeDimensionsCounted,
    PastFolded,
    ProbeMeasured,
    ProbeStarted,
    Resumed,
    RowMeasured,
    RowsEncoded,
    RunFinished,
    RunStarted,
    StageStarted,
    StepTaken,
    TrainingPrepared,
    Warned,
)

if TYPE_CHECKING:
    from nacre.records.probe import ProbeTable
    from nacre.records.run import RunRecord


class Display:
    """The `on_event` of the commands. On a terminal a bar moves; elsewhere a line a task is printed."""

    def __init__(self, *, error: bool = False) -> None:
        self.console = PlainConsole(stderr=error, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}", markup=False),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.bar: Any = None
        self.label = ""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case RunStarted():
                self._begin(event)
            case Resumed(folder=folder, tasks=tasks):
                self.console.print(f"Continuing after {len(tasks)} finished task(s): {folder}")
            case Warned(text=text):
                self.console.print(f"Warning: {text}")
            case StageStarted(number=number, stages=stages, name=name):
                self.label = f"task {number} of {stages}: {name}"
            case FreeDimensionsCounted(site=site, factor=factor, left=left, width=width):
                self.console.print(
                    f"Directions left to this task: {left} of {width} at least (fewest: {site}, '{factor}')."
                )
            case PastFolded(sites=sites, folded=folded, obstacles=obstacles) if obstacles:
                why = "; ".join(obstacles)
                self.console.print(f"Earlier tasks are not folded at {sites - folded} of {sites} linear maps: {why}.")
            case TrainingPrepared(groups=groups):
                self._show_groups(groups)
            case RowsEncoded(rows=rows, truncated=truncated) if truncated:
                self.console.print(
                    f"{truncated} of {rows} training texts are longer than the input may be, and were cut."
                )
            case StepTaken():
                self._move_bar(event)
            case RowMeasured(number=number, scores=scores, tasks=tasks):
                after = f"after task {number}" if number else "before"
                shown = "  ".join(f"{task} {percent(score)}" for task, score in zip(tasks, scores, strict=True))
                self.console.print(f"{after}: {shown}")
            case EvaluationStarted() | ProbeStarted():
                self._drop_bar()
            case ProbeMeasured(text=text):
                self.console.print(text)
            case RunFinished(path=path, already=already):
                self._drop_bar()
                if already:
                    self.console.print(f"{path} is finished already; nothing was run.")

    @contextmanager
    def interruptible(self, advice: str) -> Iterator[None]:
        """Show progress inside; on Ctrl-C say what to do and exit with 130."""
        try:
            with self.progress:
                yield
        except KeyboardInterrupt:
            PlainConsole(stderr=True).print(f"Interrupted. {advice}")
            raise typer.Exit(130) from None

    def _begin(self, event: RunStarted) -> None:
        tasks = " -> ".join(event.tasks)
        self.console.print(f"{event.method} on {tasks}, seed {event.seed}, in {event.path}")
        if event.penalties:
            self.console.print(f"Added to the loss: {', '.join(event.penalties)}")
        if event.gradient_rules:
            self.console.print(f"Between gradients and step, in this order: {', '.join(event.gradient_rules)}")

    def _show_groups(self, groups: Sequence[tuple[str, int]]) -> None:
        self.console.print(self.label)
        table = Table(box=None, pad_edge=False)
        table.add_column("trained")
        table.add_column("parameters", justify="right")
        for name, size in groups:
            table.add_row(name, f"{size:,}")
        if len(groups) > 1:
            table.add_row("all", f"{sum(size for _, size in groups):,}")
        self.console.print(table)

    def _move_bar(self, event: StepTaken) -> None:
        if self.bar is None:
            self.bar = self.progress.add_task(self.label, total=event.steps, numbers="")
        self.progress.update(self.bar, completed=event.step, numbers=f"loss {event.loss:.3f}  rate {event.rate:.1e}")

    def _drop_bar(self) -> None:
        if self.bar is not None:
            self.progress.remove_task(self.bar)
            self.bar = None


def percent(value: float | None, sign: bool = False) -> str:
    """A fraction in percent.

    Args:
        value: The fraction; None gives a dash.
        sign: Whether a gain has a plus.
    """
    return "-" if value is None else f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def print_record(record: RunRecord) -> None:
    """The matrix and the metrics of a run."""
    from nacre.records.run import TASK_IDENTITY

    console = table_console(14 + 9 * len(record.tasks))
    console.print(matrix_table(record))
    console.print(metrics_table([record]))
    if (speed := record.seconds.tokens_per_second) is not None and record.training is not None:
        padding = percent(record.training.padding_share)
        console.print(f"Training: {speed:,.0f} tokens a second; padding: {padding} %.", soft_wrap=True)
    if (identity := record.protocol.get(TASK_IDENTITY)) is not None:
        console.print(f"{TASK_IDENTITY.capitalize()}: {identity}.", soft_wrap=True)
    if record.perplexity is not None:
        console.print(perplexity_table(record))
    for probe in record.probes:
        console.print(probe_table(probe.table()))


def perplexity_table(record: RunRecord) -> Table:
    """Of tasks of unlabeled text, after each task."""
    table = Table(title=f"{record.method}: perplexity", title_justify="left", box=None, pad_edge=False)
    table.add_column("after")
    for task in record.tasks:
        table.add_column(task, justify="right")
    for name, row in zip(["(before)", *record.tasks], record.perplexity or (), strict=True):
        table.add_row(name, *["-" if value is None else f"{value:.4g}" for value in row])
    return table


def probe_table(probe: ProbeTable) -> Table:
    """What a probe found, in percent, with deviations or standard errors where there are any."""
    table = Table(title=f"{probe.title.lower()}, in %", title_justify="left", box=None, pad_edge=False)
    table.add_column(probe.first.lower())
    for heading in probe.columns:
        table.add_column(heading, justify="right")
        table.add_column("+-", justify="right")
    for name, values in probe.rows:
        cells = [text for value in values for text in (percent(value.value, value.signed), percent(value.error))]
        table.add_row(name, *cells)
    return table


def print_comparison(records: Sequence[RunRecord], page: Path) -> None:
    """Matrices side by side where they fit, the metrics, what was forgotten, and where the page is."""
    from rich.columns import Columns

    console = table_console(120)
    console.print(Columns([matrix_table(record) for record in records], padding=(1, 4)))
    console.print(metrics_table(records))
    for record in records:
        console.print(forgotten(record), soft_wrap=True)
    console.print(f"The page: {page}", soft_wrap=True)


def table_console(needed: int) -> PlainConsole:
    """As wide as the terminal, but never so narrow that numbers would be cut; a narrow terminal wraps lines."""
    console = PlainConsole()
    if not console.is_terminal or console.width < needed:
        console.width = max(needed, 160)
    return console


def matrix_table(record: RunRecord) -> Table:
    """The score matrix in percent, a line a stage."""
    several = len(set(record.task_metrics)) > 1
    what = "scores" if several else "accuracy" if record.task_metrics[0] == "exact match" else record.task_metrics[0]
    table = Table(title=f"{record.method}: {what} in %", title_justify="left", box=None, pad_edge=False)
    table.add_column("after")
    for task, metric in zip(record.tasks, record.task_metrics, strict=True):
        table.add_column(f"{task}\n{metric}" if several else task, justify="right")
    for name, row in zip(["(before)", *record.tasks], record.matrix, strict=True):
        table.add_row(name, *[percent(score) for score in row])
    return table


def metrics_table(records: Sequence[RunRecord]) -> Table:
    """A line a run: its metrics in percent, and its cost."""
    from nacre.evaluation.matrix import RUN_METRICS

    table = Table(box=None, pad_edge=False)
    for heading in ("method", *(metric.heading for metric in RUN_METRICS), "trainable", "seconds"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for record in records:
        seconds = sum(value or 0 for value in [*record.seconds.train, *record.seconds.evaluate])
        values = [percent(record.value(metric.key)) for metric in RUN_METRICS]
        table.add_row(record.method, *values, f"{record.trainable_parameters:,}", f"{seconds:.1f}")
    return table


def forgotten(record: RunRecord) -> str:
    """One sentence on what the run forgot."""
    last = record.matrix[-1]
    learned = [record.matrix[number + 1][number] for number in range(len(record.tasks))]
    falls = [
        (before - after, task, before, after)
        for task, before, after in zip(record.tasks, learned, last, strict=True)
        if before is not None and after is not None
    ]
    if not falls or record.forgetting is None:
        average = percent(record.average_accuracy)
        return f"{record.method} saw all tasks at once, so it has nothing to forget: average accuracy {average} %."
    fall, task, before, after = max(falls)
    if fall <= 0:
        return f"{record.method} forgot nothing: no task is worse at the end than when it was learned."
    return (
        f"{record.method} forgot {percent(record.forgetting)} points on average; most of '{task}', which fell from "
        f"{percent(before)} to {percent(after)} %."
    )
