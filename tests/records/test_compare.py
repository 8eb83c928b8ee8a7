"""Comparisons: the intervals against other ways to them, verdicts on planted results, refusals, and the page."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from helpers.command import Call, assert_one_line_error, one_line
from helpers.page import Page
from helpers.tiny import write_task
from nacre.errors import CheckpointError, NacreError, RecipeError
from nacre.evaluation.matrix import DEFINITIONS, run_metrics
from nacre.evaluation.uncertainty import Interval, over_rows, over_seeds, student_quantile, student_within
from nacre.files import hash_of
from nacre.manifest import write_manifest
from nacre.records.compare import compare, judge, read_runs
from nacre.records.comparison import Comparison, OverRows, OverSeeds, Pair, Verdict
from nacre.records.end_tasks import EndResult, EndTaskRecord, average
from nacre.records.predictions import final_scores
from nacre.records.reading import read_record
from nacre.records.run import RunRecord, Seconds
from nacre.report.comparison import mean_matrix, render_comparison
from nacre.report.formats import table_text
from nacre.report.intervals import axis_over
from nacre.report.verdicts import sentence
from nacre.runs.recipe import training_settings

TASKS = ("animals", "plants", "tools")
ROWS = 400


def right(share: float, seed: int, task: int, rows: int = ROWS) -> list[bool]:
    """Which rows are right: a share of them, the same rows for the same arguments."""
    return [bool(value < share) for value in np.random.default_rng([seed, task]).permutation(rows) / rows]


def entry(name: str) -> dict[str, Any]:
    """What a protocol says of a task."""
    return {"name": name, "metric": "exact_match", "rows": {"test": ROWS}}


def protocol(**changes: Any) -> dict[str, Any]:
    tasks = [entry(name) for name in TASKS]
    return {"tasks": tasks, "max_source_length": 512, "model": {"hash": "ab"}, **changes}


def plant(
    folder: Path,
    method: str,
    seed: int,
    last: Sequence[Sequence[bool]],
    *,
    parameters: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    tasks: Sequence[str] = TASKS,
    **changes: Any,
) -> Path:
    """A finished run whose last row was answered so; the rest of its matrix is made up."""
    shares = [sum(one) / len(one) for one in last]
    count = len(shares)
    made_up = [[(0.9 if task < stage else 0.1) for task in range(count)] for stage in range(count)] + [shares]
    matrix = changes.pop("matrix", made_up)
    told = changes.pop("told", None) or protocol(tasks=[entry(name) for name in tasks])
    record = RunRecord(
        method=method, title=method.title(), parameters=parameters or {"rank": 4}, tasks=list(tasks),
        model="tiny", seed=seed, metric="exact_match", matrix=matrix, valid_answers=matrix,
        **(run_metrics(matrix, [len(one) for one in last])), trainable_parameters=1,
        trainable_parameters_per_task=[1] * count, stored_parameters=1,
        seconds=Seconds(train=[1.0] * count, evaluate=[1.0] * (count + 1)), peak_rss_bytes=1,
        protocol=told, protocol_hash=hash_of(told), definitions=DEFINITIONS, **{"stream": "own", **changes},
    )  # fmt: skip
    place = folder / f"{method}-{seed}-{len(list(folder.iterdir()))}"
    predictions = place / "tasks" / f"{count:02d}-{tasks[-1]}" / "predictions"
    predictions.mkdir(parents=True)
    for number, (name, rows) in enumerate(zip(tasks, last, strict=True), start=1):
        lines = "".join(json.dumps({"answer": "a", "target": "b", "right": one}) + "\n" for one in rows)
        (predictions / f"{number:02d}-{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    before = place / "tasks" / "00-before" / "predictions"  # an earlier row, which is never the last
    before.mkdir(parents=True)
    for number, name in enumerate(tasks, start=1):
        wrong = json.dumps({"answer": "a", "target": "b", "right": False}) + "\n"
        (before / f"{number:02d}-{name}.jsonl.gz").write_bytes(gzip.compress(wrong.encode() * len(last[0])))
    for stage in (predictions.parent, before.parent):
        write_manifest(stage)
    recipe = {"method": method, "seed": seed, "output": str(place), "optim": optim or {"learning_rate": 0.1}}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    record.write(place / "results.json")
    return place


def better(seed: int) -> list[list[bool]]:
    return [right(0.80 + 0.01 * (seed % 2), seed, task) for task in range(3)]


def baseline(seed: int) -> list[list[bool]]:
    return [right(0.70 + 0.003 * seed, seed + 10, task) for task in range(3)]


def as_good(seed: int) -> list[list[bool]]:
    """Now above the baseline, now below."""
    return [right(0.70 + 0.003 * seed + 0.02 * (-1) ** seed, seed + 20, task) for task in range(3)]


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Three methods with three seeds each: one is truly better, two are alike."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed in (1, 2, 3):
        plant(folder, "o_lora", seed, better(seed))
        plant(folder, "seq_lora", seed, baseline(seed))
        plant(folder, "inc_lora", seed, as_good(seed))
    return folder


def compared(*places: Path, **options: Any) -> Comparison:
    runs, unfinished = read_runs(places, training_settings)
    return compare(runs, unfinished=unfinished, **options)


# Intervals.


def test_students_quantiles() -> None:
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}
    assert {freedom: round(student_quantile(0.975, freedom), 3) for freedom in printed} == printed
    for probability in (0.6, 0.9, 0.975, 0.999):
        # Closed forms of one, two and four degrees of freedom.
        u = 4 * probability * (1 - probability)
        cosine = math.cos(math.acos(math.sqrt(u)) / 3) / math.sqrt(u)
        exact = {
            1: math.tan(math.pi * (probability - 0.5)),
            2: (2 * probability - 1) * math.sqrt(2 / u),
            4: 2 * math.sqrt(cosine - 1),
        }
        for freedom, value in exact.items():
            assert student_quantile(probability, freedom) == pytest.approx(value, rel=1e-12)
    assert student_quantile(0.5, 3) < 1e-300


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 11])
def test_students_distribution_is_the_integral_of_its_density(freedom: int) -> None:
    edges = np.linspace(0, 2.5, 20_001)
    middles = (edges[1:] + edges[:-1]) / 2
    constant = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(math.pi * freedom)
    area = 2 * constant * float(np.sum((1 + middles**2 / freedom) ** (-(freedom + 1) / 2))) * 2.5 / 20_000
    assert student_within(2.5, freedom) == pytest.approx(area, abs=1e-8)


def test_over_seeds_by_hand() -> None:
    found = over_seeds([0.70, 0.72, 0.77])
    assert (found.n, found.mean) == (3, pytest.approx(0.73))
    assert found.deviation == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert found.interval is not None
    reach = 4.302652729911275 * math.sqrt(0.0013) / math.sqrt(3)
    assert (found.interval.low, found.interval.high) == (pytest.approx(0.73 - reach), pytest.approx(0.73 + reach))
    assert over_seeds([0.5]) == type(found)(1, 0.5, None, None)


def test_over_rows_of_two_rows_by_hand() -> None:
    """0 and 1: the mean of two draws is 0, 1/2 or 1 with 1/4, 1/2, 1/4."""
    assert over_rows([np.array([0.0, 1.0])], seed=0, samples=2000) == Interval(0.0, 1.0)
    assert over_rows([np.array([0.25])], seed=0, samples=1000) == Interval(0.25, 0.25)
    assert over_rows([np.array([1.0, -1.0] * 3), np.zeros(4)], seed=0, samples=3).low <= 0


def test_over_rows_draws_rows_with_replacement() -> None:
    """Against a loop that draws row by row, with another generator, and against the normal approximation."""
    source = np.random.default_rng(3)
    tasks = [source.choice([-1.0, 0.0, 1 / 3, 1.0], size=n, p=[0.1, 0.5, 0.2, 0.2]) for n in (60, 150)]
    tasks.append(source.normal(0.1, 0.3, size=80))  # a score that is no share, such as ROUGE
    found = over_rows(tasks, seed=5, samples=20_000)
    naive = np.random.default_rng(99)
    means = [np.mean([task[naive.integers(0, len(task), len(task))].mean() for task in tasks]) for _ in range(8000)]
    low, high = np.quantile(means, [0.025, 0.975])
    error = math.sqrt(sum(task.var() / len(task) for task in tasks)) / 3
    middle = np.mean([task.mean() for task in tasks])
    assert found.low == pytest.approx(low, abs=0.1 * error)
    assert found.high == pytest.approx(high, abs=0.1 * error)
    assert found.low == pytest.approx(middle - 1.96 * error, abs=0.1 * error)
    assert found == over_rows(tasks, seed=5, samples=20_000)
    assert found != over_rows(tasks, seed=6, samples=20_000)


def test_gains_and_losses_that_cancel_are_zero() -> None:
    """A third is no binary fraction: their rest must not make an interval exclude 0."""
    found = over_rows([np.array([1 / 3, -1 / 3, 2 / 3, -2 / 3, 1 / 7, -1 / 7])] * 3, seed=0, samples=1000)
    assert found.includes_zero
    equal = over_rows([np.zeros(50)] * 2, seed=0, samples=1000)
    assert equal == Interval(0.0, 0.0)
    assert equal.includes_zero
    noise = over_seeds([1e-17, 1e-17, 2e-17]).interval  # two ways to add up the same scores
    assert noise is not None
    assert noise.includes_zero


# Verdicts.


def test_the_better_method_is_shown_and_the_equal_one_is_not(planted: Path) -> None:
    found = compared(planted)
    assert found.groups[0].name == "o_lora"
    verdicts = {(pair.first, pair.second): pair for pair in found.pairs}
    assert len(verdicts) == 3
    for other in ("seq_lora", "inc_lora"):
        pair = verdicts["o_lora", other]
        assert (pair.over_seeds, pair.over_rows, pair.verdict) == ("better", "better", "better")
        assert pair.seeds == [1, 2, 3]
    alike = next(pair for key, pair in verdicts.items() if "o_lora" not in key)
    assert alike.verdict == "not shown"
    assert alike.over_seeds == "not shown"
    spread = alike.metrics["average_accuracy"]
    assert spread is not None
    assert spread.low is not None
    assert spread.low < 0
    assert "interval over seeds includes 0" in alike.reason


def test_the_numbers_of_a_pair_by_hand(planted: Path) -> None:
    found = compared(planted, seed=4, samples=2000)
    pair = next(pair for pair in found.pairs if {pair.first, pair.second} == {"o_lora", "seq_lora"})
    share = {
        seed: [np.mean(a) - np.mean(b) for a, b in zip(better(seed), baseline(seed), strict=True)] for seed in (1, 2, 3)
    }
    differences = [float(np.mean(share[seed])) for seed in (1, 2, 3)]
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    spread = pair.metrics["average_accuracy"]
    assert spread is not None
    assert spread.mean == pytest.approx(mean)
    assert spread.deviation == pytest.approx(deviation)
    assert spread.low == pytest.approx(mean - 4.302652729911275 * deviation / math.sqrt(3))
    rows = [
        np.mean(
            [np.array(better(seed)[task], float) - np.array(baseline(seed)[task], float) for seed in (1, 2, 3)], axis=0
        )
        for task in range(3)
    ]
    expected = over_rows(rows, seed=4, samples=2000)
    assert pair.rows is not None
    assert (pair.rows.low, pair.rows.high) == (expected.low, expected.high)
    # Forgetting is summarized from each seed's forgetting: here every seed forgot 0.9 less its last row.
    forgot = pair.metrics["forgetting"]
    assert forgot is not None
    assert forgot.mean == pytest.approx(-np.mean([np.mean(share[seed][:2]) for seed in (1, 2, 3)]))
    group = next(group for group in found.groups if group.name == "o_lora")
    average = group.metrics["average_accuracy"]
    assert average is not None
    assert average.mean == pytest.approx(np.mean([np.mean(better(seed)) for seed in (1, 2, 3)]))
    assert average.n == 3


def test_worse_is_said_of_the_first(tmp_path: Path) -> None:
    """Groups are ranked, so the first of a pair is worse only where the seeds in common say otherwise."""
    for seed in (1, 2, 3):
        plant(tmp_path, "a", seed, baseline(seed))
        plant(tmp_path, "b", seed, better(seed))
    for seed in (4, 5):
        plant(tmp_path, "a", seed, [right(1.0, seed, task) for task in range(3)])
        plant(tmp_path, "b", seed + 2, [right(0.1, seed, task) for task in range(3)])
    found = compared(tmp_path)
    assert [group.name for group in found.groups] == ["a", "b"]
    assert [(pair.first, pair.verdict, pair.seeds) for pair in found.pairs] == [("a", "worse", [1, 2, 3])]


def test_one_seed_has_no_interval_and_shows_nothing(tmp_path: Path) -> None:
    plant(tmp_path, "a", 1, better(1))
    plant(tmp_path, "b", 1, baseline(1))
    found = compared(tmp_path)
    average = found.groups[0].metrics["average_accuracy"]
    assert average is not None
    assert (average.n, average.deviation, average.low, average.high) == (1, None, None, None)
    pair = found.pairs[0]
    assert (pair.over_seeds, pair.over_rows, pair.verdict, pair.reason) == (
        None, "better", "not shown", "only one seed is in both",
    )  # fmt: skip
    assert pair.rows is not None
    assert pair.rows.low > 0


def test_no_seed_in_common(tmp_path: Path) -> None:
    plant(tmp_path, "a", 1, better(1))
    plant(tmp_path, "b", 2, baseline(2))
    pair = compared(tmp_path).pairs[0]
    assert (pair.seeds, pair.rows, pair.verdict, pair.reason) == ([], None, "not shown", "no seed is in both")
    assert set(pair.metrics.values()) == {None}


def test_a_verdict_needs_both_intervals() -> None:
    assert judge(3, "better", "better", "")[0] == "better"
    assert judge(3, "worse", "worse", "")[0] == "worse"
    assert judge(3, "better", "not shown", "") == ("not shown", "the interval over test rows includes 0")
    assert judge(3, "not shown", "better", "") == ("not shown", "the interval over seeds includes 0")
    assert judge(1, None, "better", "")[0] == "not shown"
    assert judge(0, None, None, "no seed is in both")[0] == "not shown"
    verdict, reason = judge(3, "better", None, "there are no predictions")
    assert verdict == "better"
    assert "over 3 seeds; test rows were not drawn again, because there are no predictions" in reason


def test_seeds_of_other_settings_are_other_groups(tmp_path: Path) -> None:
    plant(tmp_path, "a", 1, better(1))
    plant(tmp_path, "a", 2, better(2))
    plant(tmp_path, "a", 1, baseline(1), parameters={"rank": 8})
    plant(tmp_path, "a", 1, as_good(1), optim={"learning_rate": 0.5})
    plant(tmp_path, "b", 1, as_good(1))
    names = {group.name: group.seeds for group in compared(tmp_path).groups}
    assert names == {
        "a, optim.learning_rate=0.1, rank=4": [1, 2],
        "a, optim.learning_rate=0.1, rank=8": [1],
        "a, optim.learning_rate=0.5, rank=4": [1],
        "b": [1],
    }


def test_an_undefined_metric_stays_undefined(tmp_path: Path) -> None:
    undefined: list[float | None] = [None] * 3
    shares = [sum(one) / len(one) for one in better(1)]
    plant(tmp_path, "joint", 1, better(1), matrix=[[0.1] * 3, undefined, undefined, shares])
    plant(tmp_path, "joint", 2, better(2))
    group = compared(tmp_path).groups[0]
    assert group.metrics["forgetting"] is None
    assert group.metrics["average_accuracy"] is not None


def test_end_tasks_join_the_metrics(nacre: Call, tmp_path: Path) -> None:
    def ends(f1: float) -> EndTaskRecord:
        results = [
            EndResult(
                after=after, corpus="c", task="t", seed=1, train_rows=1, test_rows=1, accuracy=0.5, macro_f1=0.0,
                f1=value, seconds=1.0, answers=[],
            )
            for after, value in (("plants", 0.1), ("tools", f1))
        ]  # fmt: skip
        return EndTaskRecord(results=results, averages=[average(after, results) for after in ("plants", "tools")])

    for seed in (1, 2):
        plant(tmp_path, "a", seed, better(seed), end_tasks=ends(0.6 + 0.1 * seed))
        plant(tmp_path, "b", seed, baseline(seed), end_tasks=ends(0.3 * seed) if seed == 1 else None)
    found = compared(tmp_path)
    first, second = found.groups
    assert first.metrics["end_task_f1"] is not None
    assert first.metrics["end_task_f1"].mean == pytest.approx(0.75)
    assert second.metrics["end_task_f1"] is None  # not measured in every run
    said = nacre("compare", tmp_path, "--output", tmp_path / "page.html")
    assert "end task f1" in said.out
    assert "End tasks, F1" in (tmp_path / "page.html").read_text()


# What is refused.


def test_different_protocols_are_refused_by_name(nacre: Call, tmp_path: Path) -> None:
    first = plant(tmp_path, "a", 1, better(1))
    tasks = protocol()["tasks"]
    told = protocol(max_source_length=256, tasks=[{**tasks[0], "metric": "macro_f1"}, *tasks[1:]])
    other = plant(tmp_path, "b", 1, baseline(1), told=told)
    said = nacre("compare", tmp_path, "--output", tmp_path / "page.html")
    assert_one_line_error(said, first, other)
    assert "differ in max_source_length (512; 256), metric (exact_match; macro_f1) of task 'animals'." in said.err
    assert not (tmp_path / "page.html").exists()


LIMITED = [
    {**entry(name), "rows": {"test": 32}, "hash": {"train": f"{name}" * 9, "test": f"{name}" * 8}} for name in TASKS
]


MANY = {f"key{number}": number for number in range(11)}


@pytest.mark.parametrize(
    ("told", "difference"),
    [
        (
            MANY,
            "They differ in key0 (not set; 0), key1 (not set; 1), key10 (not set; 10), key2 (not set; 2) and 7 more.",
        ),
        ({"chat": "a long template " * 9}, "They differ in chat. 'nacre report'"),
        ({"limit_test": 32, "tasks": LIMITED}, "limit_test (not set; 32), hash.test of 3 tasks, hash.train of 3 tasks"),
    ],
)
def test_a_refusal_of_protocols_is_short(tmp_path: Path, told: dict[str, Any], difference: str) -> None:
    plant(tmp_path, "a", 1, better(1))
    plant(tmp_path, "b", 1, baseline(1), told=protocol(**told))
    with pytest.raises(RecipeError) as refused:
        compared(tmp_path)
    assert difference in str(refused.value)
    assert len(str(refused.value)) < 400 + 2 * len(str(tmp_path))


def test_other_tasks_are_named(tmp_path: Path) -> None:
    plant(tmp_path, "a", 1, better(1))
    plant(tmp_path, "b", 1, baseline(1), tasks=("x", "y", "z"))
    with pytest.raises(RecipeError, match=r"They differ in their tasks \(animals, plants, tools; x, y, z\)\."):
        compared(tmp_path)


def test_the_same_run_twice_is_no_second_seed(nacre: Call, tmp_path: Path) -> None:
    place = plant(tmp_path, "a", 1, better(1))
    shutil.copytree(place, tmp_path / "copy")
    assert_one_line_error(nacre("compare", tmp_path, "--output", tmp_path / "p.html"), "is not a second seed")
    assert (
        len(read_runs([place, tmp_path / place.name / ".." / place.name], training_settings)[0]) == 1
    )  # named twice is one run


def test_folders_without_runs(nacre: Call, tmp_path: Path) -> None:
    page = ("--output", tmp_path / "page.html")
    assert_one_line_error(nacre("compare", tmp_path / "nowhere", *page), "nowhere", "is not a folder")
    assert_one_line_error(nacre("compare", tmp_path, *page), "there is no results.json in it")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("method: a\n")
    assert_one_line_error(nacre("compare", tmp_path, *page), "not finished")
    plant(tmp_path, "a", 1, better(1))
    assert_one_line_error(nacre("compare", tmp_path, "--output", tmp_path / "no" / "page.html"), "does not exist")
    said = nacre("compare", tmp_path, *page)
    assert said.code == 0
    assert f"Not finished, left out: {tmp_path / 'begun'}" in one_line(said.out)


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    place = plant(tmp_path, "a", 1, better(1))
    other = plant(tmp_path, "b", 1, baseline(1))
    file = Path("tasks/03-tools/predictions/02-plants.jsonl.gz")
    shutil.copy(other / file, place / file)
    with pytest.raises(CheckpointError, match=r"02-plants\.jsonl\.gz is damaged: its sha256 differs"):
        compared(tmp_path)
    stage = (place / file).parents[1]
    write_manifest(stage)
    with pytest.raises(CheckpointError, match=r"02-plants.*which is not what results\.json says of task 'plants'"):
        compared(tmp_path)
    (place / file).write_bytes(b"no gzip")
    write_manifest(stage)
    with pytest.raises(CheckpointError, match=r"02-plants\.jsonl\.gz is damaged"):
        compared(tmp_path)


def test_a_recipe_that_was_changed_after_the_run_is_refused(
    nacre: Call, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    for name in ("animals", "plants"):
        write_task(tmp_path / "data", name)
    said = nacre(
        *("run", "--method", "inc_lora", "--stream", "animals,plants", "--data", tmp_path / "data", "--limit-train", 4),
        *("--model", tiny_model("t5"), "--output", tmp_path / "run", "--set", "optim.learning_rate=1e-05"),
    )
    assert said.code == 0, said.err
    runs, _ = read_runs([tmp_path / "run"], training_settings)
    assert runs[0].settings["optim"]["learning_rate"] == 1e-05
    file = tmp_path / "run" / "recipe.yaml"
    for old, new in (("batch_size: 16", "batch_size: 17"), ("weight_decay: 0.0", "weight_decay: 2020-01-01")):
        before = file.read_text()
        file.write_text(before.replace(old, new, 1))
        with pytest.raises(NacreError, match=re.escape(str(file))):
            read_runs([tmp_path / "run"], training_settings)
        file.write_text(before)


def test_without_predictions_only_seeds_are_judged(planted: Path) -> None:
    for place in planted.glob("o_lora-*"):
        shutil.rmtree(place / "tasks")
    pairs = [pair for pair in compared(planted).pairs if "o_lora" in (pair.first, pair.second)]
    for pair in pairs:
        assert (pair.rows, pair.over_rows, pair.verdict) == (None, None, "better")
        assert "holds no predictions for task 'animals'" in pair.reason


def test_a_score_that_is_no_mean_over_rows_is_not_drawn_again(tmp_path: Path) -> None:
    tasks = protocol()["tasks"]
    told = protocol(tasks=[tasks[0], {**tasks[1], "metric": "macro_f1"}, tasks[2]])
    for method, rows in (("a", better), ("b", baseline)):
        first, _, third = (sum(one) / len(one) for one in rows(1))
        plant(tmp_path, method, 1, rows(1), told=told, matrix=[[0.1] * 3] * 3 + [[first, 0.5, third]])
    pair = compared(tmp_path).pairs[0]
    assert pair.rows is None
    assert pair.verdict == "not shown"


def test_a_task_answered_last_in_an_earlier_stage(tmp_path: Path) -> None:
    """As ``independent`` leaves it: each task's predictions lie in its own stage."""
    place = plant(tmp_path, "independent", 1, better(1))
    last = place / "tasks" / "03-tools" / "predictions"
    for number, name in ((1, "animals"), (2, "plants")):
        own = place / "tasks" / f"{number:02d}-{name}" / "predictions"
        own.mkdir(parents=True)
        shutil.move(last / f"{number:02d}-{name}.jsonl.gz", own / f"01-{name}.jsonl.gz")
        write_manifest(own.parent)
    scores = final_scores(place, read_record(place / "results.json"))
    assert [score.tolist() for score in scores] == better(1)


def test_runs_as_nacre_leaves_them(nacre: Call, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """Sequential, joint and independent runs store their last row in other places; all are found."""
    for name in TASKS:
        write_task(tmp_path / "data", name)
    for method, seed in (("seq_lora", 1), ("seq_lora", 2), ("joint", 1), ("independent", 1)):
        said = nacre(
            *("run", "--method", method, "--stream", ",".join(TASKS), "--data", tmp_path / "data", "--seed", seed),
            *("--model", tiny_model("t5"), "--output", tmp_path / "runs" / f"{method}-{seed}", "--limit-train", 4),
            *("--set", "optim.learning_rate=0.05"),
        )
        assert said.code == 0, said.err
    runs, _ = read_runs([tmp_path / "runs"], training_settings)
    for run in runs:
        assert [score.mean() for score in run.final.values()] == pytest.approx(run.record.matrix[-1])
    found = compare(runs)
    assert {group.name: group.seeds for group in found.groups} == {"seq_lora": [1, 2], "joint": [1], "independent": [1]}
    assert all(pair.rows is not None and pair.verdict == "not shown" for pair in found.pairs)
    # What was measured and how it was answered at once is no setting of the training.
    said = nacre(
        *("run", tmp_path / "runs/joint-1/recipe.yaml", "--seed", 2, "--output", tmp_path / "runs/joint-2"),
        *("--set", "matrix=last", "--set", "evaluation.batch_size=2"),
    )
    assert said.code == 0, said.err
    assert [group.seeds for group in compared(tmp_path / "runs").groups if group.name == "joint"] == [[1, 2]]


# Orders of the tasks.

ORDERS = {"order1": TASKS, "order2": TASKS[::-1]}


def in_order(rows: Sequence[Sequence[bool]], tasks: Sequence[str]) -> list[Sequence[bool]]:
    """Answers to TASKS, in another order of the tasks."""
    return [rows[TASKS.index(name)] for name in tasks]


@pytest.fixture
def ordered(tmp_path: Path) -> Path:
    """Two methods, three seeds, two orders; in the second one the tasks are answered a little worse."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed in (1, 2, 3):
        for number, (stream, tasks) in enumerate(ORDERS.items()):
            for method, answers in (("o_lora", better(seed)), ("seq_lora", baseline(seed))):
                worse = [[one and row % (20 + number) != number for row, one in enumerate(rows)] for rows in answers]
                plant(folder, method, seed, in_order(worse, tasks), tasks=tasks, stream=stream)
    return folder


def test_an_average_over_orders_by_hand(ordered: Path) -> None:
    found = compared(ordered)
    runs, _ = read_runs([ordered], training_settings)
    assert [(order.name, order.tasks) for order in found.orders] == [
        (name, list(tasks)) for name, tasks in ORDERS.items()
    ]
    assert {order.protocol_hash for order in found.orders} == {run.record.protocol_hash for run in runs}
    assert found.protocol_hash is None
    by_place = {(run.record.method, run.record.seed, run.record.stream): run.record for run in runs}

    def values(method: str, metric: str, *streams: str) -> list[float]:
        """For each seed the mean over these orders."""
        return [
            float(np.mean([by_place[method, seed, stream].value(metric) for stream in streams])) for seed in (1, 2, 3)
        ]

    group = found.groups[0]
    assert (group.name, group.seeds) == ("o_lora", [1, 2, 3])
    for metric in ("average_accuracy", "forgetting"):
        spread, expected = group.metrics[metric], values("o_lora", metric, *ORDERS)
        assert spread is not None
        assert spread.n == 3
        assert spread.mean == pytest.approx(np.mean(expected))
        assert spread.deviation == pytest.approx(np.std(expected, ddof=1))
    for order, spread in zip(ORDERS, group.by_order, strict=True):
        assert spread is not None
        assert spread.mean == pytest.approx(np.mean(values("o_lora", "average_accuracy", order)))
    (pair,) = found.pairs
    assert pair.verdict == "better"
    difference = pair.metrics["average_accuracy"]
    assert difference is not None
    assert difference.mean == pytest.approx(
        np.mean(values("o_lora", "average_accuracy", *ORDERS))
        - np.mean(values("seq_lora", "average_accuracy", *ORDERS))
    )
    # A test row is the same row in both orders: its difference is averaged, not drawn twice.
    final = {(run.record.method, run.record.seed, run.record.stream): run.final for run in runs}
    places = list(itertools.product((1, 2, 3), ORDERS))
    rows = [
        np.mean([final["o_lora", *place][task] - final["seq_lora", *place][task] for place in places], axis=0)
        for task in TASKS
    ]
    expected_rows = over_rows(rows, seed=0, samples=10_000)
    assert pair.rows is not None
    assert (pair.rows.low, pair.rows.high) == pytest.approx((expected_rows.low, expected_rows.high))


def test_orders_are_named_where_they_are_averaged(nacre: Call, ordered: Path, tmp_path: Path) -> None:
    said = nacre("compare", ordered, "--output", tmp_path / "page.html")
    assert said.code == 0, said.err
    text = one_line(said.out)
    page = one_line((tmp_path / "page.html").read_text())
    for order in compared(ordered).orders:
        assert f"{order.name}, protocol {order.protocol_hash[:12]}: {' -> '.join(order.tasks)}" in text
        assert order.protocol_hash in page
        assert " → ".join(order.tasks) in page
    assert "2 methods over 3 seeds and 2 orders" in page
    assert len(Page(page).maps) == 4  # of each group and order


def test_every_seed_needs_every_order(nacre: Call, ordered: Path, tmp_path: Path) -> None:
    missing = next(
        path for path in sorted(ordered.glob("seq_lora-2-*")) if "order2" in (path / "results.json").read_text()
    )
    shutil.rmtree(missing)
    said = nacre("compare", ordered, "--output", tmp_path / "page.html")
    assert_one_line_error(said, "seq_lora has no run with seed 2 of order2")
    assert not (tmp_path / "page.html").exists()


def test_orders_of_one_name_are_told_apart_by_their_tasks(tmp_path: Path) -> None:
    for tasks in ORDERS.values():
        plant(tmp_path, "a", 1, in_order(better(1), tasks), tasks=tasks)
    names = [order.name for order in compared(tmp_path).orders]
    assert names == ["animals -> plants -> tools", "tools -> plants -> animals"]


# What is possible.


def test_no_interval_leaves_what_is_possible(nacre: Call, tmp_path: Path) -> None:
    """Two seeds far apart: Student's interval alone would reach from below 0 to above 100 %."""
    for seed, (ours, theirs) in {1: (1.0, 0.0), 2: (0.2, 0.5)}.items():
        plant(tmp_path, "a", seed, [right(ours, seed, task) for task in range(3)])
        plant(tmp_path, "b", seed, [right(theirs, seed, task) for task in range(3)])
    plain = over_seeds([1.0, 0.2]).interval
    assert plain is not None
    assert plain.low < 0
    assert plain.high > 1
    found = compared(tmp_path)
    average = found.groups[0].metrics["average_accuracy"]
    assert average is not None
    assert (average.low, average.high) == (0.0, 1.0)
    assert average.deviation == pytest.approx(0.8 / math.sqrt(2))
    forgot, difference = found.groups[0].metrics["forgetting"], found.pairs[0].metrics["average_accuracy"]
    assert forgot is not None
    assert difference is not None
    assert forgot.low is not None
    assert forgot.low >= -1
    assert difference.low == -1.0
    assert found.pairs[0].verdict == "not shown"
    said = nacre("compare", tmp_path, "--output", tmp_path / "page.html")
    assert "0.0 to 100.0" in said.out
    numbers = re.findall(r'<text x="[^"]+" y="11">(−?\d+)</text>', (tmp_path / "page.html").read_text())
    assert all(0 <= int(number.replace("−", "-")) <= 100 for number in numbers[:6])
    axis = axis_over([0.0, 0.4, 1.0], zero=False, within=(0.0, 1.0))
    assert (axis.low, axis.high) == (0.0, 1.0)


def test_unlike_metrics_are_remarked_upon(nacre: Call, tmp_path: Path) -> None:
    tasks = protocol()["tasks"]
    for seed in (1, 2):
        plant(
            tmp_path,
            "a",
            seed,
            better(seed),
            told=protocol(tasks=[tasks[0], {**tasks[1], "metric": "rouge_l"}, tasks[2]]),
        )
    remark = "scored by unlike metrics (exact match, ROUGE-L)"
    (found,) = compared(tmp_path).remarks
    assert remark in found
    said = nacre("compare", tmp_path, "--output", tmp_path / "page.html")
    assert f"Remark: {found}" in one_line(said.out)
    assert remark in (tmp_path / "page.html").read_text()


def test_like_metrics_are_not_remarked_upon(planted: Path) -> None:
    assert compared(planted).remarks == []


NUMBERS = "+9.3 points (95 %: +7.0 to +11.0 over seeds; +8.0 to +10.0 over test rows)"


@pytest.mark.parametrize(
    ("verdict", "reason", "text"),
    [
        ("better", "over 3 seeds", f"a is better than b: {NUMBERS}, shown over 3 seeds."),
        ("worse", "over 3 seeds", f"a is worse than b: {NUMBERS}, shown over 3 seeds."),
        ("not shown", "so it is", f"Between a and b no difference is shown: {NUMBERS}, because so it is."),
    ],
)
def test_a_verdict_reads_as_a_sentence(verdict: Verdict, reason: str, text: str) -> None:
    spread = OverSeeds(n=3, mean=0.093, deviation=0.01, low=0.07, high=0.11)
    pair = Pair(
        first="a", second="b", seeds=[1, 2, 3], metrics={"average_accuracy": spread},
        rows=OverRows(low=0.08, high=0.1, samples=1000), over_seeds=verdict, over_rows=verdict, verdict=verdict,
        reason=reason,
    )  # fmt: skip
    assert sentence(pair) == text
    nothing = pair.model_copy(update={"metrics": {"average_accuracy": None}, "verdict": "not shown", "reason": "so"})
    assert sentence(nothing) == "Between a and b no difference is shown, because so."


def test_one_is_not_many(nacre: Call, tmp_path: Path) -> None:
    plant(tmp_path, "a", 1, better(1))
    said = nacre("compare", tmp_path, "--output", tmp_path / "page.html")
    assert "own: 3 tasks, 1 run\n" in said.out
    assert "1 method over 1 seed<" in (tmp_path / "page.html").read_text()


# Tables and figures for other programs.


def test_csv_holds_every_digit(nacre: Call, planted: Path, tmp_path: Path) -> None:
    said = nacre("compare", planted, "--output", tmp_path / "page.html", "--format", "csv")
    assert said.code == 0, said.err
    rows = list(csv.DictReader(io.StringIO(said.out)))
    found = compared(planted)
    assert [row["method"] for row in rows] == [group.name for group in found.groups]
    for row, group in zip(rows, found.groups, strict=True):
        assert row["seeds"] == "3"
        for key, spread in group.metrics.items():
            assert spread is not None
            assert float(row[key]) == spread.mean
            assert float(row[f"{key}_deviation"]) == spread.deviation


def test_a_table_marks_the_best_and_what_is_not_defined(tmp_path: Path) -> None:
    for seed in (1, 2):
        plant(tmp_path, "a|_*", seed, better(seed))
        plant(tmp_path, "50%_&", seed, baseline(seed))
    found = compared(tmp_path)
    groups = [
        found.groups[0],
        found.groups[1].model_copy(update={"metrics": {**found.groups[1].metrics, "forgetting": None}}),
    ]
    found = found.model_copy(update={"groups": groups})
    best = 100 * np.mean([np.mean(better(seed)) for seed in (1, 2)])
    deviation = 100 * np.std([np.mean(better(seed)) for seed in (1, 2)], ddof=1)
    markdown = table_text(found, "markdown").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in markdown[:4]]
    assert {len(line) for line in cells} == {len(cells[0])}
    assert cells[2][:3] == [r"a\|\_\*", "2", f"**{best:.1f}** ± {deviation:.1f}"]
    assert cells[3][cells[0].index("Forgetting (points)")] == "–"
    latex = table_text(found, "latex")
    assert r"50\%\_\& & 2 & " in latex
    assert rf"a|\_* & 2 & $\mathbf{{{best:.1f}}}$ $\pm {deviation:.1f}$ & " in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    assert not re.search(r"[–−±]", "".join(body))  # pdfTeX of old knows none of them


def test_formats_are_named_where_one_is_not_known(nacre: Call, planted: Path, tmp_path: Path) -> None:
    page = ("--output", tmp_path / "page.html")
    assert_one_line_error(nacre("compare", planted, *page, "--format", "xls"), "xls", "latex, markdown, csv")
    assert_one_line_error(nacre("compare", planted, *page, "--format", "csv", "--json"), "--json")
    assert_one_line_error(nacre("compare", planted, *page, "--figures", tmp_path / "no" / "where"), "does not exist")
    (tmp_path / "file").write_text("")
    assert_one_line_error(nacre("compare", planted, *page, "--figures", tmp_path / "file"), "is a file")
    assert not (tmp_path / "page.html").exists()


def test_figures_are_images_that_need_nothing(nacre: Call, planted: Path, tmp_path: Path) -> None:
    said = nacre("compare", planted, "--output", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert said.code == 0, said.err
    files = sorted((tmp_path / "figures").iterdir())
    groups = enumerate(compared(planted).groups, start=1)
    assert {file.name for file in files} == {"average.svg", *(f"tasks-{n:02d}-{group.name}.svg" for n, group in groups)}
    assert all(f"A figure: {file}" in said.out for file in files)
    space = "{http://www.w3.org/2000/svg}"
    for file in files:
        image = ElementTree.parse(file).getroot()
        assert image.tag == f"{space}svg"
        width, height = float(image.get("width", 0)), float(image.get("height", 0))
        assert "var(" not in file.read_text()
        assert not re.search(r"href|url\(|<script|<style", file.read_text())
        for path in image.iter(f"{space}path"):
            if path.get("transform") is None:
                ends = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
                assert all(
                    -0.01 <= x <= width and -0.01 <= y <= height for x, y in zip(ends[::2], ends[1::2], strict=True)
                )
    text = files[0].read_text()
    assert text.count("fill-opacity") == 3  # a band for each group
    best = np.mean([np.mean(better(seed)) for seed in (1, 2, 3)])
    assert f"o_lora, after tools: {100 * best:.1f} %" in text


# What is printed and drawn.


def test_the_command_prints_and_draws(
    nacre: Call, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = nacre("compare", planted)
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert any(
        line.startswith("o_lora is better than seq_lora: +")
        and line.endswith(", shown over 3 seeds and over test rows.")
        for line in lines
    )
    alike = " and ".join(group.name for group in compared(planted).groups[1:])
    alike = f"Between {alike} no difference is shown: "
    assert any(alike in line and line.endswith(", because the interval over seeds includes 0.") for line in lines)
    assert "own: 3 tasks, 9 runs" in lines
    shares = [np.mean(better(seed)) for seed in (1, 2, 3)]
    assert any(f"{100 * np.mean(shares):.1f} +- {100 * np.std(shares, ddof=1):.1f} " in line for line in lines)
    assert lines[-2].startswith("o_lora has the highest average accuracy, ")
    assert lines[-2].endswith(" %, and is shown to be better than all 2 others.")
    text = (tmp_path / "comparison.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert page.scopeless == 0
    assert len(page.ids) == len(set(page.ids))
    assert len(page.maps) == 3
    found = json.loads(nacre("compare", planted, "--json").out)
    assert found["schema"] == "nacre.comparison/1"
    assert found["groups"][0]["name"] == "o_lora"
    assert text == (tmp_path / "comparison.html").read_text()  # the same runs, the same bytes


def test_the_page_says_the_numbers(planted: Path) -> None:
    runs, _ = read_runs([planted], training_settings)
    found = compare(runs)
    text = render_comparison(found, {str(run.path): run.record for run in runs})
    best = found.groups[0].metrics["average_accuracy"]
    assert best is not None
    assert best.low is not None
    assert f"{100 * best.mean:.1f}" in text
    assert f"{100 * best.low:.1f} to " in text
    assert text.count('class="verdict better"') == 2
    assert text.count('class="verdict not"') == 1
    assert "Scores &lt;of&gt;" not in text
    odd = found.model_copy(update={"stream": "<script>alert(1)</script>"})
    assert "<script>" not in render_comparison(odd, {str(run.path): run.record for run in runs})


def test_many_groups_get_a_box_each(tmp_path: Path) -> None:
    for number in range(7):
        plant(tmp_path, f"method{number}", 1, better(number))
    runs, _ = read_runs([tmp_path], training_settings)
    text = render_comparison(compare(runs, samples=1000), {str(run.path): run.record for run in runs})
    assert text.count('<figure class="small">') == 7
    assert "–</td>" in text  # no interval over one seed
    assert text.count("only one seed is in both") == 21


def test_mean_matrices_are_entry_by_entry(tmp_path: Path) -> None:
    runs = [plant(tmp_path, "a", seed, better(seed)) for seed in (1, 2)]
    records = [read_record(run / "results.json") for run in runs]
    records[0].matrix[0][0] = None
    found = mean_matrix(records)
    assert found[0][0] is None
    assert found[3][1] == pytest.approx((records[0].matrix[3][1] + records[1].matrix[3][1]) / 2)  # type: ignore[operator]


def test_axes_have_round_ticks_that_lie_inside() -> None:
    for values, zero in itertools.product(([0.712, 0.734], [0.0, 1.0], [-0.3, 0.0421], [0.5], []), (False, True)):
        axis = axis_over(values, zero=zero)
        assert 2 <= len(axis.ticks) <= 7, values
        assert all(0 <= x <= 100 for x, _ in axis.ticks)
        assert len({text for _, text in axis.ticks}) == len(axis.ticks)
        assert all(0 < axis.at(value) < 100 for value in values)
    assert [text for _, text in axis_over([0.712, 0.734], zero=False).ticks] == ["71.5", "72.0", "72.5", "73.0", "73.5"]


@pytest.fixture(scope="module")
def open_page() -> Iterator[Callable[[Path], Any]]:
    """Opens a page in a browser without a network; None of a browser, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )

        def opened(path: Path) -> Any:
            page = browser.new_page()
            page.goto(path.as_uri())
            return page

        yield opened
        browser.close()


def test_a_browser_draws_the_intervals(open_page: Callable[[Path], Any], planted: Path, tmp_path: Path) -> None:
    runs, _ = read_runs([planted], training_settings)
    found = compare(runs)
    file = tmp_path / "page.html"
    file.write_text(render_comparison(found, {str(run.path): run.record for run in runs}))
    page = open_page(file)
    for width in (1200, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        shown, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert shown <= room, f"{shown} pixels in a window of {room}"
    page.set_viewport_size({"width": 1200, "height": 900})
    # The bars of the better method's first pair lie right of zero, as its interval does.
    zero, seeds, rows = (
        page.locator(f"section[aria-labelledby=pairs] tbody tr:first-child line.{kind}").bounding_box()
        for kind in ("zero", "seeds", "rows")
    )
    assert seeds["x"] > zero["x"]
    assert rows["x"] > zero["x"]
    assert seeds["width"] > 10
    page.close()
