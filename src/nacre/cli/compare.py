"""`nacre compare`: methods over seeds, with what is shown and what may be chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from nacre.cli.screen import BEST, UNDEFINED, WARNING, WORST, Grid, extremes, percent, say, screen
from nacre.console import print_json
from nacre.printable import printable

if TYPE_CHECKING:
    from nacre.evaluation.matrix import RunMetric
    from nacre.records.comparison import Comparison, OverSeeds
    from nacre.records.probe import ProbeMetric


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or folders that hold such folders.")
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("comparison.html"),
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the curves into this folder, too, as SVG files.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Bootstrap draws over test rows.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of those draws.")] = 0,
    table: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="Print one table: latex, markdown, or csv (fractions)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare methods over their seeds: means, intervals, and a verdict on every two of them.

    Runs that differ in nothing but their seed are one group. Only runs of one protocol are ranked: the same rows,
    prompts, decoding, scoring and pretrained model. Where protocols differ in the order of the tasks only, a seed's
    value is its mean over the orders.
    """
    from nacre.errors import RecipeError
    from nacre.records.compare import compare as carry_out
    from nacre.records.compare import read_runs
    from nacre.report.comparison import write_comparison
    from nacre.report.figures import write_figures
    from nacre.report.formats import FORMATS, table_text
    from nacre.runs.recipe import training_settings

    if table is not None and (as_json or table not in FORMATS):
        raise RecipeError(f"--format {table}: {', '.join(FORMATS)} are possible, and not beside --json.")
    if output.is_dir() or not output.parent.is_dir():
        raise RecipeError(f"Output '{output}' is a folder, or lies in a folder that does not exist.")
    if figures is not None and (not figures.parent.is_dir() or (figures.exists() and not figures.is_dir())):
        raise RecipeError(f"--figures '{figures}' is a file, or lies in a folder that does not exist.")
    runs, unfinished = read_runs(folders, training_settings)
    comparison = carry_out(runs, seed=seed, samples=samples, unfinished=unfinished)
    records = {str(run.path): run.record for run in runs}
    write_comparison(output, comparison, records)
    drawn = write_figures(figures, comparison, records) if figures is not None else []
    if as_json:
        print_json(comparison.as_json())
    elif table is not None:
        typer.echo(printable(table_text(comparison, table)), nl=False)
    else:
        _print(comparison)
        console = screen()
        for file in drawn:
            say(console, f"A figure: {file}")
        say(console, f"The page: {output}")


def _print(comparison: Comparison) -> None:
    from nacre.records.run import all_metrics
    from nacre.report.numbers import counted
    from nacre.report.verdicts import result, sentence

    console = screen()
    runs = sum(len(group.runs) for group in comparison.groups)
    say(console, f"{comparison.stream}: {counted(len(comparison.tasks), 'task')}, {counted(runs, 'run')}")
    say(console, "Mean over seeds in %, +- standard deviation between seeds; interval: 95 % over seeds (Student).")
    console.print()
    _groups(comparison, [metric for metric in all_metrics() if metric.key in comparison.definitions]).print(console)
    if len(comparison.orders) > 1:
        _print_orders(comparison, console)
    for remark in comparison.remarks:
        say(console, f"Remark: {remark}", WARNING)
    if comparison.pairs:
        console.print()
        say(
            console,
            "Differences of average accuracy, in points. Over seeds: what other seeds would give. Over test rows: what "
            "other rows would give (paired bootstrap).",
        )
        console.print()
        colors = {"better": BEST, "worse": WORST}
        for pair in comparison.pairs:
            say(console, sentence(pair, lambda points: percent(points, sign=True)), colors.get(pair.verdict, ""))
        console.print()
    say(console, result(comparison))
    for path in comparison.unfinished:
        say(console, f"Not finished, left out: {path}", WARNING)


def _groups(comparison: Comparison, metrics: list[RunMetric | ProbeMetric]) -> Grid:
    from nacre.report.verdicts import interval

    first, *others = metrics
    columns = [_column([group.metrics[metric.key] for group in comparison.groups], metric) for metric in metrics]
    rows: list[tuple[str | Text, ...]] = []
    for number, group in enumerate(comparison.groups):
        average, *values = (column[number] for column in columns)
        ends = interval(group.metrics[first.key], percent) or UNDEFINED
        rows.append((group.name, str(len(group.seeds)), average, ends, *values))
    return Grid("", ("method", "seeds", first.heading, "interval", *(metric.heading for metric in others)), rows)


def _print_orders(comparison: Comparison, console: Console) -> None:
    """Average accuracy in each order, and which protocol that is."""
    from nacre.evaluation.matrix import AVERAGE_ACCURACY

    columns = [
        _column([group.by_order[number] for group in comparison.groups], AVERAGE_ACCURACY)
        for number in range(len(comparison.orders))
    ]
    columns.append(_column([group.metrics[AVERAGE_ACCURACY.key] for group in comparison.groups], AVERAGE_ACCURACY))
    names = [f"order {number}" for number in range(1, len(comparison.orders) + 1)]
    rows: list[tuple[str | Text, ...]] = [
        (group.name, *(column[number] for column in columns)) for number, group in enumerate(comparison.groups)
    ]
    console.print()
    Grid("average accuracy order by order, in %", ("method", *names, "mean"), rows).print(console)
    for name, order in zip(names, comparison.orders, strict=True):
        say(console, f"{name}: {order.name}, protocol {order.protocol_hash[:12]}: {' -> '.join(order.tasks)}")


def _column(spreads: list[OverSeeds | None], metric: RunMetric | ProbeMetric) -> list[Text]:
    """A metric's means and deviations; the best and the worst mean have their color."""
    means = [None if spread is None else spread.mean for spread in spreads]
    styles = extremes(means, lower_is_better=metric.better == "lower")
    return [Text(_value(spread), style) for spread, style in zip(spreads, styles, strict=True)]


def _value(spread: OverSeeds | None) -> str:
    if spread is None:
        return UNDEFINED
    return percent(spread.mean) + ("" if spread.deviation is None else f" +- {percent(spread.deviation)}")
