"""Runs with several seeds against each other: which differences are shown, and which may be chance.

Every metric is computed run by run and then summarized; matrices are never averaged first. Only runs of one protocol
are ranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nacre.documents import DocumentError, parse_yaml
from nacre.errors import RecipeError
from nacre.evaluation.matrix import AVERAGE_ACCURACY, RunMetric
from nacre.evaluation.uncertainty import Interval, Spread, over_rows, over_seeds
from nacre.files import full_path, read_text, to_json
from nacre.migrations import upgraded_recipe
from nacre.records.comparison import Comparison, Group, OverRows, OverSeeds, Pair, Verdict
from nacre.records.plain import differences, leaves
from nacre.records.predictions import NotByRow, RowScores, final_scores
from nacre.records.probe import ProbeMetric
from nacre.records.run import RunRecord, all_metrics, probe_kinds

HEADLINE = AVERAGE_ACCURACY.key

SHOWN_DIFFERENCES = 8

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
    def final(self) -> list[RowScores]:
        """The last row of the matrix, test row by test row; see `final_scores`."""
        return final_scores(self.path, self.record)


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
    runs = [
        FinishedRun(path, RunRecord.read(path / "results.json"), _settings(path, settings_of))
        for path in finished.values()
    ]
    return runs, list(unfinished.values())


def compare(
    runs: Sequence[FinishedRun], *, seed: int = 0, samples: int = 10_000, unfinished: Sequence[Path] = ()
) -> Comparison:
    """Summarize groups of runs, and compare every two of them.

    Args:
        runs: Finished runs of one protocol.
        seed: Of the bootstrap.
        samples: Of the bootstrap.
        unfinished: Folders of runs that were left out, which the result names.

    Raises:
        RecipeError: If two runs were measured by different protocols (naming what differs and both values), or are the
            same one twice.
    """
    check_protocols(runs)
    grouped: defaultdict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        grouped[run.key].append(run)
    members = [sorted(group, key=lambda run: run.record.seed) for group in grouped.values()]
    for group in members:
        _check_seeds(group)
    measured = {type(probe) for run in runs for probe in run.record.probes}
    not_measured = {metric for kind in probe_kinds() if kind not in measured for metric in kind.metrics}
    metrics = [metric for metric in all_metrics() if metric not in not_measured]
    groups = [_group(group, name, metrics) for group, name in zip(members, _names(members), strict=True)]
    order = sorted(range(len(groups)), key=lambda index: _rank(groups[index]))
    pairs = [
        _pair((groups[first], members[first]), (groups[second], members[second]), seed, samples)
        for first, second in combinations(order, 2)
    ]
    record = runs[0].record
    return Comparison(
        stream=record.stream,
        tasks=record.tasks,
        model=record.model,
        protocol_hash=record.protocol_hash,
        bootstrap_seed=seed,
        groups=[groups[index] for index in order],
        pairs=pairs,
        unfinished=[str(path) for path in unfinished],
        definitions={metric.key: metric.definition for metric in metrics},
    )


def check_protocols(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose numbers are not comparable.

    Raises:
        RecipeError: If not all protocols are the same; it names what differs.
    """
    first = runs[0]
    other = next((run for run in runs if run.record.protocol_hash != first.record.protocol_hash), None)
    if other is None:
        return
    different = differences(first.record.protocol, other.record.protocol)
    more = f"; and {len(different) - SHOWN_DIFFERENCES} more" if len(different) > SHOWN_DIFFERENCES else ""
    raise RecipeError(
        f"Runs of different protocols cannot be ranked, because a difference may come from the data, the prompts or "
        f"the scoring. Between '{first.path}' (there) and '{other.path}' (here): "
        f"{'; '.join(different[:SHOWN_DIFFERENCES])}{more}. Compare runs of one protocol; 'nacre report' draws others "
        "side by side."
    )


def _settings(folder: Path, settings_of: TrainingSettings) -> dict[str, Any]:
    """How the run was trained, from its recipe; empty where the recipe was deleted."""
    try:
        recipe = parse_yaml(read_text(folder / "recipe.yaml"))
    except FileNotFoundError:
        return {}
    except (DocumentError, UnicodeDecodeError):
        recipe = None
    if not isinstance(recipe, dict):
        raise RecipeError(f"'{folder / 'recipe.yaml'}' is damaged: it holds no recipe.")
    return settings_of(upgraded_recipe(recipe))


def _check_seeds(group: Sequence[FinishedRun]) -> None:
    for first, second in pairwise(group):
        if first.record.seed == second.record.seed:
            raise RecipeError(
                f"'{first.path}' and '{second.path}' are the same method, settings and seed ({first.record.seed}): a "
                "repeated run is not a second seed; leave one of them out."
            )


def _names(members: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """The method's name and, where several groups have it, the parameters and settings in which they differ."""
    flat = [leaves({**group[0].record.parameters, **group[0].settings}) for group in members]
    names = []
    for group, own in zip(members, flat, strict=True):
        method = group[0].record.method
        twins = [other for these, other in zip(members, flat, strict=True) if these[0].record.method == method]
        keys = sorted({key for twin in twins for key in twin})
        differing = [key for key in keys if any(twin.get(key) != own.get(key) for twin in twins)]
        names.append(", ".join([method, *(f"{key}={_text(own.get(key, 'not set'))}" for key in differing)]))
    return names


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, indent=None)


def _group(runs: Sequence[FinishedRun], name: str, metrics: Sequence[RunMetric | ProbeMetric]) -> Group:
    record = runs[0].record
    return Group(
        name=name,
        method=record.method,
        title=record.title,
        parameters=record.parameters,
        settings=runs[0].settings,
        seeds=[run.record.seed for run in runs],
        runs=[str(run.path) for run in runs],
        metrics={metric.key: _summary([run.record.value(metric.key) for run in runs]) for metric in metrics},
    )


def _rank(group: Group) -> tuple[bool, float, str]:
    spread = group.metrics[HEADLINE]
    return (spread is None, -spread.mean if spread else 0.0, group.name)


def _summary(values: Sequence[float | None]) -> OverSeeds | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return _plain(over_seeds(known))


def _plain(spread: Spread) -> OverSeeds:
    interval = spread.interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return OverSeeds(n=spread.n, mean=spread.mean, deviation=spread.deviation, low=low, high=high)


def _pair(
    left: tuple[Group, Sequence[FinishedRun]], right: tuple[Group, Sequence[FinishedRun]], seed: int, samples: int
) -> Pair:
    (first, first_runs), (second, second_runs) = left, right
    seeds = sorted(set(first.seeds) & set(second.seeds))
    ours = [run for run in first_runs if run.record.seed in seeds]  # both in the order of their seeds
    theirs = [run for run in second_runs if run.record.seed in seeds]
    metrics = {metric: _paired(ours, theirs, metric) for metric in first.metrics}
    rows, no_rows = _rows(ours, theirs, seed, samples)
    spread = metrics[HEADLINE]
    by_seeds = None if spread is None or spread.low is None or spread.high is None else _side(spread.low, spread.high)
    by_rows = None if rows is None else _side(rows.low, rows.high)
    verdict, reason = judge(len(seeds), by_seeds, by_rows, no_rows)
    return Pair(
        first=first.name,
        second=second.name,
        seeds=seeds,
        metrics=metrics,
        rows=rows,
        over_seeds=by_seeds,
        over_rows=by_rows,
        verdict=verdict,
        reason=reason,
    )


def _paired(ours: Sequence[FinishedRun], theirs: Sequence[FinishedRun], metric: str) -> OverSeeds | None:
    """The differences seed by seed, summarized."""
    values = [
        None if (left := our.record.value(metric)) is None or (right := their.record.value(metric)) is None
        else left - right
        for our, their in zip(ours, theirs, strict=True)
    ]  # fmt: skip
    return _summary(values)


def _rows(
    ours: Sequence[FinishedRun], theirs: Sequence[FinishedRun], seed: int, samples: int
) -> tuple[OverRows | None, str]:
    """The interval over test rows, or None and why there is none."""
    if not ours:
        return None, "no seed is in both"
    try:
        differences = [
            [a - b for a, b in zip(our.final, their.final, strict=True)]
            for our, their in zip(ours, theirs, strict=True)
        ]
    except NotByRow as reason:
        return None, str(reason)
    by_task = [np.mean(np.stack(task), axis=0) for task in zip(*differences, strict=True)]
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
        return "not shown", "one seed in common" if seeds == 1 else "average accuracy is not defined in every run"
    if over_seeds == "not shown":
        return "not shown", "the interval over seeds includes 0"
    if over_rows is None:
        return over_seeds, f"over {seeds} seeds; test rows were not drawn again, because {no_rows}"
    if over_rows != over_seeds:
        return "not shown", "the interval over test rows includes 0"
    return over_seeds, f"over {seeds} seeds and over test rows"
