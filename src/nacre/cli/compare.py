"""`nacre compare`: methods over seeds, with what is shown and what may be chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nacre.cli.console import print_json
from nacre.cli.display import percent, table_console

if TYPE_CHECKING:
    from nacre.records.comparison import Comparison, OverRows, OverSeeds

UNDEFINED = "-"


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or folders that hold such folders.")
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("comparison.html"),
    samples: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Bootstrap draws over test rows.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of those draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare methods over their seeds: means, intervals, and a verdict on every two of them.

    Runs that differ in nothing but their seed are one group. Only runs of one protocol are ranked: the same rows,
    prompts, decoding, scoring and pretrained model.
    """
    from nacre.errors import RecipeError
    from nacre.records.compare import compare as carry_out
    from nacre.records.compare import read_runs
    from nacre.report.comparison import write_comparison
    from nacre.runs.recipe import training_settings

    if output.is_dir() or not output.parent.is_dir():
        raise RecipeError(f"Output '{output}' is a folder, or lies in a folder that does not exist.")
    runs, unfinished = read_runs(folders, training_settings)
    comparison = carry_out(runs, seed=seed, samples=samples, unfinished=unfinished)
    write_comparison(output, comparison, {str(run.path): run.record for run in runs})
    if as_json:
        print_json(comparison.as_json())
    else:
        _print(comparison, output)


def _print(comparison: Comparison, page: Path) -> None:
    console = table_console(150)
    runs = sum(len(group.runs) for group in comparison.groups)
    console.print(f"{comparison.stream}: {len(comparison.tasks)} tasks, {runs} runs")
    console.print("Mean over seeds in %, and the 95 % interval over seeds (Student).\n")
    console.print(_groups(comparison))
    if comparison.pairs:
        console.print("\nAverage accuracy, first less second, in points, with 95 % intervals.")
        console.print(
            "Over seeds: what other seeds would give. Over rows: what other test rows would give (paired bootstrap).\n"
        )
        console.print(_pairs(comparison))
    for path in comparison.unfinished:
        console.print(f"Not finished, left out: {path}", soft_wrap=True)
    console.print(f"The page: {page}", soft_wrap=True)


def _groups(comparison: Comparison) -> Table:
    from nacre.records.compare import HEADLINE
    from nacre.records.run import all_metrics

    table = Table(box=None, pad_edge=False)
    table.add_column("method")
    others = [metric for metric in all_metrics() if metric.key in comparison.definitions and metric.key != HEADLINE]
    for heading in ("seeds", "average", "interval", *(metric.heading for metric in others)):
        table.add_column(heading, justify="right")
    for group in comparison.groups:
        means = [_mean(group.metrics[metric.key]) for metric in others]
        average = group.metrics[HEADLINE]
        table.add_row(group.name, str(len(group.seeds)), _mean(average), _interval(average), *means)
    return table


def _pairs(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("first", "is", "than second", "difference", "over seeds", "over rows", "because"):
        table.add_column(heading, justify="right" if heading in ("difference", "over seeds", "over rows") else "left")
    for pair in comparison.pairs:
        spread = pair.metrics["average_accuracy"]
        table.add_row(
            *(pair.first, pair.verdict, pair.second, _mean(spread, sign=True)),
            *(_interval(spread, sign=True), _interval(pair.rows, sign=True), pair.reason),
        )
    return table


def _mean(spread: OverSeeds | None, sign: bool = False) -> str:
    return UNDEFINED if spread is None else _signed(spread.mean, sign)


def _interval(interval: OverSeeds | OverRows | None, sign: bool = False) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return UNDEFINED
    return f"{_signed(interval.low, sign)} to {_signed(interval.high, sign)}"


def _signed(value: float, sign: bool) -> str:
    return f"{100 * value:+.1f}" if sign else percent(value)
