"""What came out of runs, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from nacre.cli.screen import LEARNED, UNDEFINED, WORST, Grid, extremes, percent, say, screen

if TYPE_CHECKING:
    from nacre.records.probe import ProbeTable
    from nacre.records.run import RunRecord


def print_record(record: RunRecord, page: Path) -> None:
    """Print a run's matrix, its metrics, what its probes found, the result in a sentence, and where its page is.

    Args:
        record: The run's.
        page: Its page.
    """
    from nacre.records.run import TASK_IDENTITY

    console = screen()
    matrix_grid(record).print(console)
    metrics_grid([record]).print(console)
    if (speed := record.seconds.tokens_per_second) is not None and record.training is not None:
        padding = percent(record.training.padding_share)
        say(console, f"Training: {speed:,.0f} tokens a second; padding: {padding} %.")
    if (identity := record.protocol.get(TASK_IDENTITY)) is not None:
        say(console, f"{TASK_IDENTITY.capitalize()}: {identity}.")
    if record.perplexity is not None:
        perplexity_grid(record).print(console)
    for probe in record.probes:
        probe_grid(probe.table()).print(console)
    _print_end(console, [record], page)


def print_records(records: Sequence[RunRecord], page: Path) -> None:
    """Print several runs: their matrices, their metrics, their results in sentences, and where their page is.

    Args:
        records: The runs'.
        page: Of all of them.
    """
    console = screen()
    for record in records:
        matrix_grid(record).print(console)
        console.print()
    metrics_grid(records).print(console)
    _print_end(console, records, page)


def matrix_grid(record: RunRecord) -> Grid:
    """The score matrix in percent, a line a stage. Bold: just learned; the color of the worst: worse than then.

    Args:
        record: The run's.
    """
    several = len(set(record.task_metrics)) > 1
    what = "scores" if several else "accuracy" if record.task_metrics[0] == "exact match" else record.task_metrics[0]
    headings = [
        f"{task}\n{metric}" if several else task for task, metric in zip(record.tasks, record.task_metrics, strict=True)
    ]
    rows: list[tuple[str | Text, ...]] = [
        (name, *(_entry(record, stage, task) for task in range(len(record.tasks))))
        for stage, name in enumerate(["(before)", *record.tasks])
    ]
    return Grid(f"{record.method}: {what} in %", ("after", *headings), rows)


def metrics_grid(records: Sequence[RunRecord]) -> Grid:
    """A line a run: its metrics in percent, and its cost.

    Args:
        records: The runs'.
    """
    from nacre.evaluation.matrix import RUN_METRICS

    columns = []
    for metric in RUN_METRICS:
        values = [record.value(metric.key) for record in records]
        styles = extremes(values, lower_is_better=metric.better == "lower")
        columns.append([Text(percent(value), style) for value, style in zip(values, styles, strict=True)])
    rows: list[tuple[str | Text, ...]] = [
        (
            record.method,
            *(column[number] for column in columns),
            f"{record.trainable_parameters:,}",
            f"{sum(value or 0 for value in [*record.seconds.train, *record.seconds.evaluate]):.1f}",
        )
        for number, record in enumerate(records)
    ]
    return Grid("", ("method", *(metric.heading for metric in RUN_METRICS), "trainable", "seconds"), rows)


def perplexity_grid(record: RunRecord) -> Grid:
    """The perplexity of tasks of unlabeled text, after each task.

    Args:
        record: Of a run that has such tasks.
    """
    rows = [
        (name, *(UNDEFINED if value is None else f"{value:.4g}" for value in row))
        for name, row in zip(["(before)", *record.tasks], record.perplexity or (), strict=True)
    ]
    return Grid(f"{record.method}: perplexity", ("after", *record.tasks), rows)


def probe_grid(probe: ProbeTable) -> Grid:
    """What a probe found, in percent, with deviations or standard errors where there are any.

    Args:
        probe: Its table.
    """
    headings = [heading for column in probe.columns for heading in (column, "+-")]
    rows = [
        (name, *(text for value in values for text in (percent(value.value, value.signed), percent(value.error))))
        for name, values in probe.rows
    ]
    return Grid(f"{probe.title.lower()}, in %", (probe.first.lower(), *headings), rows)


def _entry(record: RunRecord, stage: int, task: int) -> Text:
    score, learned = record.matrix[stage][task], record.matrix[task + 1][task]
    fell = stage > task + 1 and score is not None and learned is not None and score < learned
    return Text(percent(score), LEARNED if stage == task + 1 else WORST if fell else "")


def _print_end(console: Console, records: Sequence[RunRecord], page: Path) -> None:
    from nacre.report.sentence import outcome

    for record in records:
        say(console, outcome(record))
    say(console, f"The page: {page}")
