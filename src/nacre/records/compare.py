"""Runs with several seeds against each other: which differences are shown, and which may be chance.

Every metric is computed run by run and then summarized; matrices are never averaged first. Only runs of one protocol
are ranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nacre.errors import RecipeError
from nacre.evaluation.matrix import DEFINITIONS
from nacre.evaluation.uncertainty import Interval, Spread, over_rows, over_seeds
from nacre.files import to_json
from nacre.records.comparison import Comparison, Group, OverRows, OverSeeds, Pair, Verdict
from nacre.records.differences import differences
from nacre.records.predictions import NotByRow, Scores, final_scores
from nacre.records.run import Record

HEADLINE = "average_accuracy"
END_TASKS = {
    "end_task_f1": "F1 of the end tasks' own copies after the last domain, mean over end tasks and their seeds",
    "end_task_accuracy": "accuracy of the same copies",
}
"""Of runs that measured end tasks, what joins the other metrics."""

BASE_ABILITY = {
    "base_ability": "mean over the multiple-choice tasks of base ability after the last task, acc_norm or else acc",
    "base_ability_change": "that mean less what it was before any task",
}
"""Likewise, of runs that measured base ability."""

SHOWN_DIFFERENCES = 8

_NO_TRAINING = {
    *("method", "set", "seed", "output", "data", "model"),  # in the record, or places
    *("stream", "identity", "limit_train", "limit_test", "measure_on", "matrix", "evaluation"),  # in the protocol
    *("head", "base_ability"),  # likewise
}
"""Keys of a recipe that do not say how was trained."""


@dataclass(frozen=True)
class Run:
    """A finished run and how it was trained."""

    path: Path
    record: Record
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """The same for runs that differ in their seed only."""
        return to_json([self.record.method, self.record.parameters, self.settings])

    @cached_property
    def final(self) -> list[Scores]:
        """See ``final_scores``."""
        return final_scores(self.path, self.record)


def read_runs(places: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """The finished runs in these folders, and the folders of unfinished ones that were found on the way.

    places: run folders, or folders that hold run folders at any depth. Raises ``RecipeError`` for a place without
    any finished run.
    """
    finished: dict[Path, Path] = {}  # full path -> path as given
    unfinished: dict[Path, Path] = {}
    for place in places:
        if not place.is_dir():
            raise RecipeError(f"'{place}' is no folder; name folders of runs, or folders that hold some.")
        if (place / "results.json").exists():
            done, begun = [place], []
        else:
            done = sorted(file.parent for file in place.rglob("results.json"))
            begun = sorted(file.parent for file in place.rglob("recipe.yaml") if file.parent not in done)
        if not done:
            why = "the runs in it are not finished" if begun else "there is no results.json in it, at any depth"
            raise RecipeError(f"'{place}' holds no finished run: {why}.")
        finished.update((path.resolve(), path) for path in done)
        unfinished.update((path.resolve(), path) for path in begun)
    runs = [Run(path, Record.read(path / "results.json"), _settings(path)) for path in finished.values()]
    return runs, list(unfinished.values())


def compare(
    runs: Sequence[Run], *, seed: int = 0, samples: int = 10_000, unfinished: Sequence[Path] = ()
) -> Comparison:
    """Groups of runs, summarized and compared in pairs. seed, samples: of the bootstrap.

    Raises ``RecipeError`` if two runs were measured by different protocols (naming what differs and both values), or
    are the same one twice.
    """
    check_protocols(runs)
    grouped: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.key].append(run)
    members = [sorted(group, key=lambda run: run.record.seed) for group in grouped.values()]
    for group in members:
        _check_seeds(group)
    defined = {
        **DEFINITIONS,
        **(END_TASKS if any(run.record.end_tasks for run in runs) else {}),
        **(BASE_ABILITY if any(run.record.base_ability for run in runs) else {}),
    }
    groups = [_group(group, name, defined) for group, name in zip(members, _names(members), strict=True)]
    order = sorted(range(len(groups)), key=lambda index: _rank(groups[index]))
    pairs = [
        _pair((groups[one], members[one]), (groups[two], members[two]), seed, samples)
        for one, two in combinations(order, 2)
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
        definitions=defined,
    )


def check_protocols(runs: Sequence[Run]) -> None:
    """Raise ``RecipeError`` naming the fields that differ, with their values, unless all protocols are the same."""
    first = runs[0]
    other = next((run for run in runs if run.record.protocol_hash != first.record.protocol_hash), None)
    if other is None:
        return
    found = differences(first.record.protocol, other.record.protocol)
    more = f"; and {len(found) - SHOWN_DIFFERENCES} more" if len(found) > SHOWN_DIFFERENCES else ""
    raise RecipeError(
        f"Runs of different protocols cannot be ranked, because a difference may come from the data, the prompts or "
        f"the scoring. Between '{first.path}' (there) and '{other.path}' (here): "
        f"{'; '.join(found[:SHOWN_DIFFERENCES])}{more}. Compare runs of one protocol; 'nacre report' draws others side "
        "by side."
    )


def _settings(folder: Path) -> dict[str, Any]:
    """How was trained, from the run's recipe; nothing where it was taken away."""
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError):
        recipe = None
    if not isinstance(recipe, dict):
        raise RecipeError(f"'{folder / 'recipe.yaml'}' is damaged: it holds no recipe.")
    return {key: value for key, value in recipe.items() if key not in _NO_TRAINING}


def _check_seeds(group: Sequence[Run]) -> None:
    for one, two in pairwise(group):
        if one.record.seed == two.record.seed:
            raise RecipeError(
                f"'{one.path}' and '{two.path}' are the same method, settings and seed ({one.record.seed}): a run "
                "repeated is no second seed; leave one of them out."
            )


def _names(members: Sequence[Sequence[Run]]) -> list[str]:
    """The method's name and, where several groups have it, the parameters and settings in which they differ."""
    leaves = [_leaves({**group[0].record.parameters, **group[0].settings}) for group in members]
    names = []
    for group, own in zip(members, leaves, strict=True):
        method = group[0].record.method
        twins = [other for these, other in zip(members, leaves, strict=True) if these[0].record.method == method]
        keys = sorted({key for twin in twins for key in twin})
        differing = [key for key in keys if any(twin.get(key) != own.get(key) for twin in twins)]
        names.append(", ".join([method, *(f"{key}={own.get(key, 'not set')}" for key in differing)]))
    return names


def _leaves(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and their values as text."""
    found: dict[str, str] = {}
    for key, one in value.items():
        if isinstance(one, dict):
            found.update(_leaves(one, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = one if isinstance(one, str) else to_json(one, indent=None)
    return found


def _group(runs: Sequence[Run], name: str, defined: Iterable[str]) -> Group:
    record = runs[0].record
    return Group(
        name=name,
        method=record.method,
        title=record.title,
        parameters=record.parameters,
        settings=runs[0].settings,
        seeds=[run.record.seed for run in runs],
        runs=[str(run.path) for run in runs],
        metrics={metric: _summary([_value(run.record, metric) for run in runs]) for metric in defined},
    )


def _value(record: Record, metric: str) -> float | None:
    if metric in BASE_ABILITY:
        averages = record.base_ability.averages if record.base_ability else []
        return None if not averages else averages[-1].value if metric == "base_ability" else averages[-1].change
    if metric not in END_TASKS:
        value: float | None = getattr(record, metric)
        return value
    last = (
        next((one for one in record.end_tasks.averages if one.after == record.tasks[-1]), None)
        if record.end_tasks
        else None
    )
    return None if last is None else last.f1 if metric == "end_task_f1" else last.accuracy


def _rank(group: Group) -> tuple[bool, float, str]:
    found = group.metrics[HEADLINE]
    return (found is None, -found.mean if found else 0.0, group.name)


def _summary(values: Sequence[float | None]) -> OverSeeds | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return _plain(over_seeds(known))


def _plain(spread: Spread) -> OverSeeds:
    interval = spread.interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return OverSeeds(n=spread.n, mean=spread.mean, deviation=spread.deviation, low=low, high=high)


def _pair(one: tuple[Group, Sequence[Run]], two: tuple[Group, Sequence[Run]], seed: int, samples: int) -> Pair:
    (first, first_runs), (second, second_runs) = one, two
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


def _paired(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> OverSeeds | None:
    """The differences seed by seed, summarized."""
    values = [
        None if (left := _value(our.record, metric)) is None or (right := _value(their.record, metric)) is None
        else left - right
        for our, their in zip(ours, theirs, strict=True)
    ]  # fmt: skip
    return _summary(values)


def _rows(ours: Sequence[Run], theirs: Sequence[Run], seed: int, samples: int) -> tuple[OverRows | None, str]:
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
    """The verdict by both intervals, and what it rests on. no_rows: why there is no interval over rows.

    One seed shows nothing about the method, however many rows it was tested on: another seed may turn the difference.
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
