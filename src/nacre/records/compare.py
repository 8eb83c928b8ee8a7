"""Runs with several seeds against each other: which differences are shown, and which may be chance.

Every metric is computed run by run and then summarized; matrices are never averaged first. Only runs of one protocol
are ranked, or of protocols that differ in the order of the tasks only: then a seed's value is its mean over the orders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from nacre.documents import DocumentError
from nacre.errors import RecipeError
from nacre.evaluation.matrix import AVERAGE_ACCURACY, RANGES, RunMetric
from nacre.evaluation.uncertainty import Interval, Spread, over_rows, over_seeds
from nacre.files import full_path, read_yaml, to_json
from nacre.migrations import upgraded_recipe
from nacre.records.comparison import Comparison, Group, OverRows, OverSeeds, Pair, TaskOrder, Verdict
from nacre.records.orders import orders_of
from nacre.records.plain import hash_of_recipe, leaves
from nacre.records.predictions import NotByRow, RowScores, final_scores
from nacre.records.probe import ProbeMetric
from nacre.records.reading import read_record
from nacre.records.run import RunRecord, all_metrics, probe_kinds

HEADLINE = AVERAGE_ACCURACY.key

TrainingSettings = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a run's recipe to those of its settings that affect training and that its record does not hold."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run and how it was trained.

    Attributes:
        path: Its folder.
        record: Its results.
        settings: How it was trained, besides the method's parameters.
    """

    path: Path
    record: RunRecord
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """The same for runs that differ in their seed only."""
        return to_json([self.record.method, self.record.parameters, self.settings])

    @cached_property
    def final(self) -> dict[str, RowScores]:
        """The last row of the matrix, test row by test row, by task; see `final_scores`."""
        return dict(zip(self.record.tasks, final_scores(self.path, self.record), strict=True))


@dataclass(frozen=True)
class SeedRuns:
    """The runs of a group that have one seed: one for each order of the tasks.

    Attributes:
        seed: Their seed.
        runs: In the order of the orders.
    """

    seed: int
    runs: tuple[FinishedRun, ...]

    def value(self, metric: str) -> float | None:
        """A metric's mean over the orders.

        Args:
            metric: Its key.

        Returns:
            A fraction; None where the metric is not defined in every run.
        """
        values = [run.record.value(metric) for run in self.runs]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def gains(self, other: SeedRuns) -> dict[str, RowScores]:
        """What these runs gain on each test row, as the mean over the orders.

        Args:
            other: Runs of the same orders.

        Returns:
            For each task the differences, [n_j].

        Raises:
            NotByRow: If a run has no scores of single test rows.
        """
        pairs = list(zip(self.runs, other.runs, strict=True))
        return {
            task: np.mean([ours.final[task] - theirs.final[task] for ours, theirs in pairs], axis=0)
            for task in self.runs[0].record.tasks
        }


def read_runs(folders: Sequence[Path], settings_of: TrainingSettings) -> tuple[list[FinishedRun], list[Path]]:
    """Read the finished runs in these folders.

    Args:
        folders: Of runs, or folders that hold such folders at any depth.
        settings_of: Which settings of a recipe put runs into different groups.

    Returns:
        The runs, and the folders of unfinished ones that were seen on the way.

    Raises:
        RecipeError: For a folder without any finished run.
    """
    finished: dict[Path, Path] = {}  # full path -> path as given
    unfinished: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RecipeError(f"'{folder}' is not a folder; name folders of runs, or folders that hold some.")
        if (folder / "results.json").exists():
            done, begun = [folder], []
        else:
            done = sorted(file.parent for file in folder.rglob("results.json"))
            begun = sorted(file.parent for file in folder.rglob("recipe.yaml") if file.parent not in done)
        if not done:
            why = "the runs in it are not finished" if begun else "there is no results.json in it, at any depth"
            raise RecipeError(f"'{folder}' holds no finished run: {why}.")
        finished.update((full_path(path), path) for path in done)
        unfinished.update((full_path(path), path) for path in begun)
    return [_finished(path, settings_of) for path in finished.values()], list(unfinished.values())


def compare(
    runs: Sequence[FinishedRun], *, seed: int = 0, samples: int = 10_000, unfinished: Sequence[Path] = ()
) -> Comparison:
    """Summarize groups of runs, and compare every two of them.

    Args:
        runs: Finished runs of one protocol, or of protocols that differ in the order of the tasks only.
        seed: Of the bootstrap.
        samples: Of the bootstrap.
        unfinished: Folders of runs that were left out, which the result names.

    Raises:
        RecipeError: If two runs were measured by different protocols (naming what differs), if they are the same one
            twice, or if one was not repeated in every order.
    """
    orders = orders_of([(run.path, run.record) for run in runs])
    grouped: defaultdict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        grouped[run.key].append(run)
    members = [_by_seed(group, orders) for group in grouped.values()]
    measured = {type(probe) for run in runs for probe in run.record.probes}
    not_measured = {metric for kind in probe_kinds() if kind not in measured for metric in kind.metrics}
    metrics = [metric for metric in all_metrics() if metric not in not_measured]
    groups = [_group(group, name, metrics) for group, name in zip(members, _names(members), strict=True)]
    ranking = sorted(range(len(groups)), key=lambda index: _rank(groups[index]))
    pairs = [
        _pair((groups[first], members[first]), (groups[second], members[second]), metrics, seed, samples)
        for first, second in combinations(ranking, 2)
    ]
    return Comparison(
        stream=", ".join(order.name for order in orders),
        tasks=orders[0].tasks,
        model=runs[0].record.model,
        protocol_hash=orders[0].protocol_hash if len(orders) == 1 else None,
        orders=orders,
        bootstrap_seed=seed,
        groups=[groups[index] for index in ranking],
        pairs=pairs,
        unfinished=[str(path) for path in unfinished],
        definitions={metric.key: metric.definition for metric in metrics},
        remarks=_remarks(runs[0].record),
    )


def _remarks(record: RunRecord) -> list[str]:
    """What a reader of the averages should know."""
    kinds = list(dict.fromkeys(record.task_metrics))
    if len(kinds) == 1:
        return []
    return [
        f"The averages are over tasks that are scored by unlike metrics ({', '.join(kinds)}): look at single tasks, "
        "too, before you conclude anything from them."
    ]


def _finished(folder: Path, settings_of: TrainingSettings) -> FinishedRun:
    record = read_record(folder / "results.json")
    return FinishedRun(folder, record, _settings(folder / "recipe.yaml", record, settings_of))


def _settings(file: Path, record: RunRecord, settings_of: TrainingSettings) -> dict[str, Any]:
    """How the run was trained, from its recipe; empty where the recipe was deleted."""
    try:
        recipe = read_yaml(file)
    except FileNotFoundError:
        return {}
    except DocumentError:
        recipe = None
    if not isinstance(recipe, dict):
        raise RecipeError(f"'{file}' is damaged: it holds no recipe.")
    if record.recipe_hash not in (None, _hash(recipe)):
        raise RecipeError(f"'{file}' was changed after the run: it is not the recipe that results.json is of.")
    return settings_of(upgraded_recipe(recipe))


def _hash(recipe: Mapping[Any, Any]) -> str:
    try:
        return hash_of_recipe(recipe)
    except (TypeError, ValueError, RecursionError):  # YAML holds more than a recipe does
        return "not a recipe's"


def _by_seed(group: Sequence[FinishedRun], orders: Sequence[TaskOrder]) -> list[SeedRuns]:
    """The runs of a group by their seeds.

    Raises:
        RecipeError: If a run is there twice, or if a seed's run is missing in an order.
    """
    found: dict[tuple[int, str], FinishedRun] = {}
    for run in group:
        place = (run.record.seed, run.record.protocol_hash)
        if place in found:
            raise RecipeError(
                f"'{found[place].path}' and '{run.path}' are the same method, settings and seed ({run.record.seed}): a "
                "repeated run is not a second seed; leave one of them out."
            )
        found[place] = run
    seeds = sorted({seed for seed, _ in found})
    for seed in seeds:
        missing = [order.name for order in orders if (seed, order.protocol_hash) not in found]
        if missing:
            raise RecipeError(
                f"{group[0].record.method} has no run with seed {seed} of {', '.join(missing)}: an average over orders "
                "needs every seed in every order; add that run, or name fewer folders."
            )
    return [SeedRuns(seed, tuple(found[seed, order.protocol_hash] for order in orders)) for seed in seeds]


def _names(members: Sequence[Sequence[SeedRuns]]) -> list[str]:
    """The method's name and, where several groups have it, the parameters and settings in which they differ."""
    firsts = [group[0].runs[0] for group in members]
    flat = [leaves({**run.record.parameters, **run.settings}) for run in firsts]
    names = []
    for run, own in zip(firsts, flat, strict=True):
        twins = [other for these, other in zip(firsts, flat, strict=True) if these.record.method == run.record.method]
        keys = sorted({key for twin in twins for key in twin})
        differing = [key for key in keys if any(twin.get(key) != own.get(key) for twin in twins)]
        names.append(", ".join([run.record.method, *(f"{key}={_text(own.get(key, 'not set'))}" for key in differing)]))
    return names


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, indent=None)


def _group(seeds: Sequence[SeedRuns], name: str, metrics: Sequence[RunMetric | ProbeMetric]) -> Group:
    first = seeds[0].runs[0]
    orders = range(len(seeds[0].runs))
    return Group(
        name=name,
        method=first.record.method,
        title=first.record.title,
        parameters=first.record.parameters,
        settings=first.settings,
        seeds=[one.seed for one in seeds],
        runs=[str(run.path) for one in seeds for run in one.runs],
        metrics={
            metric.key: _summary([one.value(metric.key) for one in seeds], RANGES[metric.unit]) for metric in metrics
        },
        by_order=[
            _summary([one.runs[order].record.value(HEADLINE) for one in seeds], RANGES[AVERAGE_ACCURACY.unit])
            for order in orders
        ],
    )


def _rank(group: Group) -> tuple[bool, float, str]:
    spread = group.metrics[HEADLINE]
    return (spread is None, -spread.mean if spread else 0.0, group.name)


def _summary(values: Sequence[float | None], within: tuple[float, float]) -> OverSeeds | None:
    """Values over seeds; None where one is not defined. within: the range beyond which no value of the metric lies."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return _plain(over_seeds(known), within)


def _plain(spread: Spread, within: tuple[float, float]) -> OverSeeds:
    # An interval keeps its level where it is cut at the ends of what is possible.
    interval = spread.interval
    low, high = (max(interval.low, within[0]), min(interval.high, within[1])) if interval else (None, None)
    return OverSeeds(n=spread.n, mean=spread.mean, deviation=spread.deviation, low=low, high=high)


def _pair(
    left: tuple[Group, Sequence[SeedRuns]],
    right: tuple[Group, Sequence[SeedRuns]],
    metrics: Sequence[RunMetric | ProbeMetric],
    seed: int,
    samples: int,
) -> Pair:
    (first, first_runs), (second, second_runs) = left, right
    seeds = sorted(set(first.seeds) & set(second.seeds))
    ours = [one for one in first_runs if one.seed in seeds]  # both in the order of their seeds
    theirs = [one for one in second_runs if one.seed in seeds]
    differences = {metric.key: _paired(ours, theirs, metric) for metric in metrics}
    rows, no_rows = _rows(ours, theirs, seed, samples)
    spread = differences[HEADLINE]
    by_seeds = None if spread is None or spread.low is None or spread.high is None else _side(spread.low, spread.high)
    by_rows = None if rows is None else _side(rows.low, rows.high)
    verdict, reason = judge(len(seeds), by_seeds, by_rows, no_rows)
    return Pair(
        first=first.name,
        second=second.name,
        seeds=seeds,
        metrics=differences,
        rows=rows,
        over_seeds=by_seeds,
        over_rows=by_rows,
        verdict=verdict,
        reason=reason,
    )


def _paired(ours: Sequence[SeedRuns], theirs: Sequence[SeedRuns], metric: RunMetric | ProbeMetric) -> OverSeeds | None:
    """The differences seed by seed, summarized."""
    values = [
        None if (left := our.value(metric.key)) is None or (right := their.value(metric.key)) is None
        else left - right
        for our, their in zip(ours, theirs, strict=True)
    ]  # fmt: skip
    low, high = RANGES[metric.unit]
    return _summary(values, (low - high, high - low))


def _rows(ours: Sequence[SeedRuns], theirs: Sequence[SeedRuns], seed: int, samples: int) -> tuple[OverRows | None, str]:
    """The interval over test rows, or None and why there is none."""
    if not ours:
        return None, "no seed is in both"
    try:
        gains = [our.gains(their) for our, their in zip(ours, theirs, strict=True)]
    except NotByRow as reason:
        return None, str(reason)
    by_task = [np.mean([one[task] for one in gains], axis=0) for task in gains[0]]
    interval = over_rows(by_task, seed=seed, samples=samples)
    return OverRows(low=interval.low, high=interval.high, samples=samples), ""


def _side(low: float, high: float) -> Verdict:
    if Interval(low, high).includes_zero:
        return "not shown"
    return "better" if low > 0 else "worse"


def judge(seeds: int, over_seeds: Verdict | None, over_rows: Verdict | None, no_rows: str) -> tuple[Verdict, str]:
    """Judge a difference by both intervals.

    One seed shows nothing about the method, however many rows it was tested on: another seed may turn the difference.

    Args:
        seeds: How many seeds both groups have.
        over_seeds: The verdict by the interval over seeds; None where there is none.
        over_rows: The verdict by the interval over test rows; None where there is none.
        no_rows: Why there is no interval over rows.

    Returns:
        The verdict, and what it rests on.
    """
    if not seeds:
        return "not shown", "no seed is in both"
    if over_seeds is None:
        return "not shown", "only one seed is in both" if seeds == 1 else "average accuracy is not defined in every run"
    if over_seeds == "not shown":
        return "not shown", "the interval over seeds includes 0"
    if over_rows is None:
        return over_seeds, f"over {seeds} seeds; test rows were not drawn again, because {no_rows}"
    if over_rows != over_seeds:
        return "not shown", "the interval over test rows includes 0"
    return over_seeds, f"over {seeds} seeds and over test rows"
