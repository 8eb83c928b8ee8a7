"""``nacre compare``: methods over seeds, with what is shown and what may be chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nacre.cli.display import percent, table_console

if TYPE_CHECKING:
    from nacre.records.comparison import Comparison, OverRows, OverSeeds

NO = "-"
HEADINGS = {
    "learning_accuracy": "learning",
    "pooled_accuracy": "pooled",
    "backward_transfer": "backward",
    "forward_transfer": "forward",
}


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or folders that hold such folders.")
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("comparison.html"),
    samples: Annotated[int, typer.Option(min=1000, help="Draws of the bootstrap over test rows.")] = 10_000,
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

    if output.is_dir() or not output.parent.is_dir():
        raise RecipeError(f"Output '{output}' is a folder, or lies in a folder that does not exist.")
    runs, unfinished = read_runs(folders)
    found = carry_out(runs, seed=seed, samples=samples, unfinished=unfinished)
    write_comparison(output, found, {str(run.path): run.record for run in runs})
    if as_json:
        typer.echo(found.as_json())
    else:
        _print(found, output)


def _print(found: Comparison, page: Path) -> None:
    console = table_console(150)
    console.print(f"{found.stream}: {len(found.tasks)} tasks, {sum(len(one.runs) for one in found.groups)} runs")
    console.print("Mean over seeds in %, and the 95 % interval over seeds (Student).\n")
    console.print(_groups(found))
    if found.pairs:
        console.print("\nAverage accuracy, first less second, in points, with 95 % intervals.")
        console.print(
            "Over seeds: what other seeds would give. Over rows: what other test rows would give (paired bootstrap).\n"
        )
        console.print(_pairs(found))
    for path in found.unfinished:
        console.print(f"Not finished, left out: {path}", soft_wrap=True)
    console.print(f"The page: {page}", soft_wrap=True)


def _groups(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("method")
    others = [name for name in found.definitions if name != "average_accuracy"]
    for heading in ("seeds", "average", "interval", *(HEADINGS.get(name, name.replace("_", " ")) for name in others)):
        table.add_column(heading, justify="right")
    for group in found.groups:
        means = [_mean(group.metrics[name]) for name in others]
        average = group.metrics["average_accuracy"]
        table.add_row(group.name, str(len(group.seeds)), _mean(average), _interval(average), *means)
    return table


def _pairs(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("first", "is", "than second", "difference", "over seeds", "over rows", "because"):
        table.add_column(heading, justify="right" if heading in ("difference", "over seeds", "over rows") else "left")
    for pair in found.pairs:
        spread = pair.metrics["average_accuracy"]
        table.add_row(
            *(pair.first, pair.verdict, pair.second, _mean(spread, sign=True)),
            *(_interval(spread, sign=True), _interval(pair.rows, sign=True), pair.reason),
        )
    return table


def _mean(spread: OverSeeds | None, sign: bool = False) -> str:
    return NO if spread is None else _signed(spread.mean, sign)


def _interval(interval: OverSeeds | OverRows | None, sign: bool = False) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return NO
    return f"{_signed(interval.low, sign)} to {_signed(interval.high, sign)}"


def _signed(value: float, sign: bool) -> str:
    return f"{100 * value:+.1f}" if sign else percent(value)
