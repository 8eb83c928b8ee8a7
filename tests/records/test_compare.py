"""Comparisons: the intervals against other ways to them, verdicts on planted results, refusals, and the page."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
from nacre.records.comparison import Comparison
from nacre.records.end_tasks import EndResult, EndTaskRecord, average
from nacre.records.predictions import final_scores
from nacre.records.run import RunRecord, Seconds
from nacre.report.comparison import mean_matrix, render_comparison
from nacre.report.intervals import axis_over
from nacre.runs.recipe import training_settings

TASKS = ("animals", "plants", "tools")
ROWS = 400


def right(share: float, seed: int, task: int, rows: int = ROWS) -> list[bool]:
    """Which rows are right: a share of them, the same rows for the same arguments."""
    return [bool(value < share) for value in np.random.default_rng([seed, task]).permutation(rows) / rows]


def protocol(**changes: Any) -> dict[str, Any]:
    tasks = [{"name": name, "metric": "exact_match", "rows": {"test": ROWS}} for name in TASKS]
    return {"tasks": tasks, "max_source_length": 512, "model": {"hash": "ab"}, **changes}


def plant(
    folder: Path,
    method: str,
    seed: int,
    last: Sequence[Sequence[bool]],
    *,
    parameters: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A finished run whose last row was answered so; the rest of its matrix is made up."""
    shares = [sum(one) / len(one) for one in last]
    count = len(shares)
    made_up = [[(0.9 if task < stage else 0.1) for task in range(count)] for stage in range(count)] + [shares]
    matrix = changes.pop("matrix", made_up)
    told = changes.pop("told", protocol())
    record = RunRecord(
        method=method, title=method.title(), parameters=parameters or {"rank": 4}, stream="own", tasks=list(TASKS),
        model="tiny", seed=seed, metric="exact_match", matrix=matrix, valid_answers=matrix,
        **(run_metrics(matrix, [len(one) for one in last])), trainable_parameters=1,
        trainable_parameters_per_task=[1] * count, stored_parameters=1,
        seconds=Seconds(train=[1.0] * count, evaluate=[1.0] * (count + 1)), peak_rss_bytes=1,
        protocol=told, protocol_hash=hash_of(told), definitions=DEFINITIONS, **changes,
    )  # fmt: skip
    place = folder / f"{method}-{seed}-{len(list(folder.iterdir()))}"
    predictions = place / "tasks" / f"{count:02d}-{TASKS[-1]}" / "predictions"
    predictions.mkdir(parents=True)
    for number, (name, rows) in enumerate(zip(TASKS, last, strict=True), start=1):
        lines = "".join(json.dumps({"answer": "a", "target": "b", "right": one}) + "\n" for one in rows)
        (predictions / f"{number:02d}-{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    before = place / "tasks" / "00-before" / "predictions"  # an earlier row, which is never the last
    before.mkdir(parents=True)
    for number, name in enumerate(TASKS, start=1):
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
        None, "better", "not shown", "one seed in common",
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
    assert "max_source_length is 512 there and 256 here" in said.err
    assert 'tasks[1].metric is "exact_match" there and "macro_f1" here' in said.err
    assert "tasks[2]" not in said.err
    assert not (tmp_path / "page.html").exists()


def test_many_differences_are_counted(tmp_path: Path) -> None:
    plant(tmp_path, "a", 1, better(1))
    plant(tmp_path, "b", 1, baseline(1), told=protocol(**{f"key{number}": number for number in range(11)}))
    with pytest.raises(RecipeError, match=r"key0 is null there and 0 here; .*; and 3 more"):
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
    scores = final_scores(place, RunRecord.read(place / "results.json"))
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
        assert [score.mean() for score in run.final] == pytest.approx(run.record.matrix[-1])
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


# What is printed and drawn.


def test_the_command_prints_and_draws(
    nacre: Call, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = nacre("compare", planted)
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert any(
        line.startswith("o_lora better seq_lora +") and "over 3 seeds and over test rows" in line for line in lines
    )
    assert any("not shown" in line for line in lines)
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
    assert text.count("one seed in common") == 21


def test_mean_matrices_are_entry_by_entry(tmp_path: Path) -> None:
    runs = [plant(tmp_path, "a", seed, better(seed)) for seed in (1, 2)]
    records = [RunRecord.read(run / "results.json") for run in runs]
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
