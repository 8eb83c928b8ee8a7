"""The page of a comparison: groups of runs with their intervals, a verdict on every two, curves and mean matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nacre.evaluation.matrix import AVERAGE_ACCURACY, RANGES, RunMetric
from nacre.files import write_atomically
from nacre.records.compare import HEADLINE
from nacre.records.comparison import Comparison, Group, OverSeeds, Pair, TaskOrder
from nacre.records.probe import ProbeMetric
from nacre.records.run import Matrix, RunRecord, all_metrics
from nacre.report import environment, numbers, palette
from nacre.report.curves import MARKERS, average_curves
from nacre.report.heat import HeatMap, score_map
from nacre.report.intervals import Axis, Strip, axis_over, bar, dots
from nacre.report.metrics import MEANINGS, Definition, value_text
from nacre.report.names import columns, short_place
from nacre.report.settings import Entry, entries_of
from nacre.report.verdicts import interval, result, verdict


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
        by_order: Average accuracy and its deviation in each order of the tasks.
        maps: The mean matrix of each order.
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
    by_order: tuple[tuple[str, str], ...]
    maps: tuple[HeatMap, ...]
    settings: tuple[Entry, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class PairLine:
    """A pair of groups as texts and a drawing.

    Attributes:
        verdict: What is shown, as a sentence.
        kind: The verdict: better, worse or not.
        reason: What it rests on.
        difference: Of average accuracy, in points.
        over_seeds: Its interval over seeds.
        over_rows: Its interval over test rows.
        strip: The same, drawn.
    """

    verdict: str
    kind: str
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
    groups_axis = axis_over(_group_values(comparison.groups, by_group), zero=False, within=RANGES["%"])
    pairs_axis = axis_over(_pair_values(comparison.pairs), zero=True)
    shown = [metric for metric in all_metrics() if metric.key in comparison.definitions]
    titles = {metric.key: metric.title for metric in shown}
    page: dict[str, Any] = {
        "title": _title(comparison),
        "result": result(comparison),
        "remarks": comparison.remarks,
        "facts": _facts(comparison),
        "orders": comparison.orders,
        "groups": [
            _group(group, members, groups_axis, shown, comparison.orders)
            for group, members in zip(comparison.groups, by_group, strict=True)
        ],
        "groups_axis": groups_axis,
        "pairs": [_pair(pair, pairs_axis) for pair in comparison.pairs],
        "pairs_axis": pairs_axis,
        "metrics": shown,
        "definitions": [
            Definition(key, titles.get(key, key), MEANINGS.get(key, ""), (text,))
            for key, text in comparison.definitions.items()
        ],
        "curves": average_curves(by_group, [group.name for group in comparison.groups]),
        "markers": MARKERS,
        "crowded": len(comparison.tasks) > 6,
        "most_tasks": len(comparison.tasks),
        "longest_name": max(columns(task) for task in comparison.tasks),
        "unfinished": comparison.unfinished,
        "protocols": _protocols(comparison, by_group),
        "draws": next((numbers.count(pair.rows.samples) for pair in comparison.pairs if pair.rows), None),
    }
    return environment().get_template("comparison.html.j2").render(page=page, heat_colors=Markup(palette.css()))


def write_comparison(path: Path, comparison: Comparison, records: Mapping[str, RunRecord]) -> None:
    """Write the page; a reader sees the old page or the new one, never a part of it.

    Args:
        path: Where to.
        comparison: What was found.
        records: As for `render_comparison`.
    """
    write_atomically(path, render_comparison(comparison, records))


def mean_matrix(records: Sequence[RunRecord]) -> Matrix:
    """Average matrices entry by entry, for the eye only: metrics are means of each run's metric.

    Args:
        records: Of runs over the same tasks in the same order.

    Returns:
        The means `[T + 1][T]`; None where one entry is not defined.
    """
    rows, tasks = len(records[0].matrix), len(records[0].tasks)
    return [[_mean([record.matrix[row][task] for record in records]) for task in range(tasks)] for row in range(rows)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _title(comparison: Comparison) -> str:
    groups, seeds = len(comparison.groups), {seed for group in comparison.groups for seed in group.seeds}
    return (
        f"{numbers.counted(groups, 'method')} over {numbers.counted(len(seeds), 'seed')}"
        f"{f' and {len(comparison.orders)} orders' if len(comparison.orders) > 1 else ''}"
    )


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    runs = sum(len(group.runs) for group in comparison.groups)
    return [
        ("Stream" if len(comparison.orders) == 1 else "Streams", comparison.stream),
        ("Tasks", str(len(comparison.tasks))),
        ("Model", short_place(comparison.model)),
        ("Runs", str(runs)),
    ]


def _protocols(
    comparison: Comparison, by_group: Sequence[Sequence[RunRecord]]
) -> list[tuple[TaskOrder, Sequence[Entry]]]:
    """Each order's protocol, whole."""
    by_hash = {record.protocol_hash: record.protocol for records in by_group for record in records}
    return [(order, entries_of(by_hash[order.protocol_hash])) for order in comparison.orders]


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
    group: Group,
    records: Sequence[RunRecord],
    axis: Axis,
    metrics: Sequence[RunMetric | ProbeMetric],
    orders: Sequence[TaskOrder],
) -> GroupLine:
    spread = group.metrics[HEADLINE]
    ends = interval(spread, numbers.percent) or numbers.DASH
    runs = [
        (record.average_accuracy, f"{_which(record, orders)}: {numbers.percent(record.average_accuracy)} %")
        for record in records
    ]
    low, high = (spread.low, spread.high) if spread else (None, None)
    return GroupLine(
        name=group.name,
        title=group.title,
        seeds=", ".join(map(str, group.seeds)),
        mean=numbers.percent(spread.mean if spread else None),
        interval=ends,
        strip=Strip(
            None if spread is None else axis.at(spread.mean),
            bar(axis, "seeds", low, high, f"95 % over seeds: {ends}"),
            dots(axis, [(value, hover) for value, hover in runs if value is not None]),
        ),
        values=tuple(_value(metric, group.metrics[metric.key]) for metric in metrics),
        by_order=tuple(_value(AVERAGE_ACCURACY, one) for one in group.by_order),
        maps=tuple(_map(group, records, order, alone=len(orders) == 1) for order in orders),
        settings=entries_of({"parameters": group.parameters, **group.settings}),
        runs=tuple(group.runs),
    )


def _which(record: RunRecord, orders: Sequence[TaskOrder]) -> str:
    """The seed of a run and, of several, its order."""
    order = next(order.name for order in orders if order.protocol_hash == record.protocol_hash)
    return f"seed {record.seed}" if len(orders) == 1 else f"seed {record.seed}, {order}"


def _map(group: Group, records: Sequence[RunRecord], order: TaskOrder, *, alone: bool) -> HeatMap:
    own = [record for record in records if record.protocol_hash == order.protocol_hash]
    mean = own[0].model_copy(update={"matrix": mean_matrix(own)})
    return score_map(mean, group.name if alone else f"{group.name}, {order.name}")


def _value(metric: RunMetric | ProbeMetric, spread: OverSeeds | None) -> tuple[str, str]:
    if spread is None:
        return numbers.DASH, ""
    return value_text(metric, spread.mean), "" if spread.deviation is None else f"± {numbers.percent(spread.deviation)}"


def _pair(pair: Pair, axis: Axis) -> PairLine:
    spread = pair.metrics[HEADLINE]
    over_seeds, over_rows = (interval(ends, numbers.points) or numbers.DASH for ends in (spread, pair.rows))
    low, high = (spread.low, spread.high) if spread else (None, None)
    rows_low, rows_high = (pair.rows.low, pair.rows.high) if pair.rows else (None, None)
    return PairLine(
        verdict=verdict(pair),
        kind="not" if pair.verdict == "not shown" else pair.verdict,
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
