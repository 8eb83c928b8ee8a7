"""The page of a comparison: groups of runs with their intervals, a verdict on every two, curves and mean matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nacre.evaluation.matrix import RunMetric
from nacre.files import write_atomically
from nacre.records.compare import HEADLINE
from nacre.records.comparison import Comparison, Group, OverRows, OverSeeds, Pair
from nacre.records.probe import ProbeMetric
from nacre.records.run import Matrix, RunRecord, all_metrics
from nacre.report import environment, numbers, palette
from nacre.report.curves import MARKERS, average_curves
from nacre.report.heat import HeatMap, score_map
from nacre.report.intervals import Axis, Strip, axis_over, bar, dots
from nacre.report.metrics import Definition, value_text
from nacre.report.names import columns
from nacre.report.settings import Entry, entries_of


@dataclass(frozen=True)
class GroupLine:
    """A group of runs as texts and drawings.

    Attributes:
        name: The group's.
        title: The method's.
        seeds: The runs' seeds.
        mean: Average accuracy over seeds.
        interval: Its 95 % interval.
        strip: The same, drawn.
        values: Each metric's mean and standard deviation over seeds.
        map: The mean matrix.
        settings: How the runs were trained.
        runs: Their folders.
    """

    name: str
    title: str
    seeds: str
    mean: str
    interval: str
    strip: Strip
    values: tuple[tuple[str, str], ...]
    map: HeatMap
    settings: tuple[Entry, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class PairLine:
    """A pair of groups as texts and a drawing."""

    first: str
    second: str
    verdict: str
    reason: str
    difference: str
    over_seeds: str
    over_rows: str
    strip: Strip


def render_comparison(comparison: Comparison, records: Mapping[str, RunRecord]) -> str:
    """Draw the page of a comparison.

    Args:
        comparison: What was found.
        records: Of the runs that were compared, under the names they have in the groups.

    Returns:
        HTML text.
    """
    by_group = [[records[run] for run in group.runs] for group in comparison.groups]
    groups_axis = axis_over(_group_values(comparison.groups, by_group), zero=False)
    pairs_axis = axis_over(_pair_values(comparison.pairs), zero=True)
    shown = [metric for metric in all_metrics() if metric.key in comparison.definitions]
    titles = {metric.key: metric.title for metric in shown}
    page: dict[str, Any] = {
        "title": f"{len(comparison.groups)} {'methods' if len(comparison.groups) != 1 else 'method'} over seeds",
        "facts": _facts(comparison),
        "groups": [
            _group(group, members, groups_axis, shown)
            for group, members in zip(comparison.groups, by_group, strict=True)
        ],
        "groups_axis": groups_axis,
        "pairs": [_pair(pair, pairs_axis) for pair in comparison.pairs],
        "pairs_axis": pairs_axis,
        "metrics": shown,
        "definitions": [Definition(key, titles.get(key, key), (text,)) for key, text in comparison.definitions.items()],
        "curves": average_curves(by_group, [group.name for group in comparison.groups]),
        "markers": MARKERS,
        "crowded": len(comparison.tasks) > 6,
        "most_tasks": len(comparison.tasks),
        "longest_name": max(columns(task) for task in comparison.tasks),
        "unfinished": comparison.unfinished,
        "protocol": entries_of(by_group[0][0].protocol),
        "protocol_hash": comparison.protocol_hash,
        "draws": next((numbers.count(pair.rows.samples) for pair in comparison.pairs if pair.rows), None),
    }
    return environment().get_template("comparison.html.j2").render(page=page, heat_colors=Markup(palette.css()))


def write_comparison(path: Path, comparison: Comparison, records: Mapping[str, RunRecord]) -> None:
    """Write the page to `path`; a reader sees the old page or the new one, never a part of it."""
    write_atomically(path, render_comparison(comparison, records))


def mean_matrix(records: Sequence[RunRecord]) -> Matrix:
    """Entry by entry over runs, for the eye only: metrics are means of each run's metric. None where one entry is."""
    rows, tasks = len(records[0].matrix), len(records[0].tasks)
    return [[_mean([record.matrix[row][task] for record in records]) for task in range(tasks)] for row in range(rows)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    runs = sum(len(group.runs) for group in comparison.groups)
    return [
        ("Stream", comparison.stream),
        ("Tasks", str(len(comparison.tasks))),
        ("Model", comparison.model),
        ("Runs", str(runs)),
    ]


def _group_values(groups: Sequence[Group], by_group: Sequence[Sequence[RunRecord]]) -> list[float | None]:
    spreads = [group.metrics[HEADLINE] for group in groups]
    ends = [end for spread in spreads if spread for end in (spread.mean, spread.low, spread.high)]
    return [*ends, *(record.average_accuracy for records in by_group for record in records)]


def _pair_values(pairs: Sequence[Pair]) -> list[float | None]:
    values: list[float | None] = []
    for pair in pairs:
        spread = pair.metrics[HEADLINE]
        values += [spread.mean, spread.low, spread.high] if spread else []
        values += [pair.rows.low, pair.rows.high] if pair.rows else []
    return values


def _group(
    group: Group, records: Sequence[RunRecord], axis: Axis, metrics: Sequence[RunMetric | ProbeMetric]
) -> GroupLine:
    spread = group.metrics[HEADLINE]
    interval = _interval(spread, numbers.percent)
    seeds = [
        (record.average_accuracy, f"seed {record.seed}: {numbers.percent(record.average_accuracy)} %")
        for record in records
    ]
    low, high = (spread.low, spread.high) if spread else (None, None)
    mean = records[0].model_copy(update={"matrix": mean_matrix(records)})
    return GroupLine(
        name=group.name,
        title=group.title,
        seeds=", ".join(map(str, group.seeds)),
        mean=numbers.percent(spread.mean if spread else None),
        interval=interval,
        strip=Strip(
            None if spread is None else axis.at(spread.mean),
            bar(axis, "seeds", low, high, f"95 % over seeds: {interval}"),
            dots(axis, [(value, hover) for value, hover in seeds if value is not None]),
        ),
        values=tuple(_value(metric, group.metrics[metric.key]) for metric in metrics),
        map=score_map(mean, group.name),
        settings=entries_of({"parameters": group.parameters, **group.settings}),
        runs=tuple(group.runs),
    )


def _value(metric: RunMetric | ProbeMetric, spread: OverSeeds | None) -> tuple[str, str]:
    if spread is None:
        return numbers.DASH, ""
    return value_text(metric, spread.mean), "" if spread.deviation is None else f"± {numbers.percent(spread.deviation)}"


def _pair(pair: Pair, axis: Axis) -> PairLine:
    spread = pair.metrics[HEADLINE]
    over_seeds, over_rows = _interval(spread, numbers.points), _interval(pair.rows, numbers.points)
    low, high = (spread.low, spread.high) if spread else (None, None)
    rows_low, rows_high = (pair.rows.low, pair.rows.high) if pair.rows else (None, None)
    return PairLine(
        first=pair.first,
        second=pair.second,
        verdict=pair.verdict,
        reason=pair.reason,
        difference=numbers.points(spread.mean if spread else None),
        over_seeds=over_seeds,
        over_rows=over_rows,
        strip=Strip(
            None if spread is None else axis.at(spread.mean),
            (
                *bar(axis, "seeds", low, high, f"95 % over seeds: {over_seeds}"),
                *bar(axis, "rows", rows_low, rows_high, f"95 % over test rows: {over_rows}"),
            ),
        ),
    )


def _interval(interval: OverSeeds | OverRows | None, text: Any) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return numbers.DASH
    return f"{text(interval.low)} to {text(interval.high)}"
