"""The gate: requirements as they are written, intervals against a naive bootstrap, and what opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.stores import NAMES, new_store, settings_of, taught, write_tasks
from nacre.errors import RecipeError
from nacre.evaluation.base_ability.scores import AbilityScore, score_of
from nacre.evaluation.scoring import score
from nacre.records.gate_verdict import GateVerdict, Judgment, Unclear
from nacre.report.verdict import as_html, as_markdown, sentence
from nacre.seeds import derive
from nacre.store.gate import SAMPLES, MustKeep, Requirement
from nacre.store.judging import SEED, judge
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("agnews:-2pt", {"agnews": 0.02}),
        ("agnews:-2pt, hellaswag:-1pt, *:-3pt", {"agnews": 0.02, "hellaswag": 0.01, "*": 0.03}),
        (" a task : 0.5pt ,*:-0pt", {"a task": 0.005, "*": 0.0}),
        ("*:-100pt", {"*": 1.0}),
    ],
)
def test_requirements_are_read(text: str, limits: dict[str, float]) -> None:
    gate = MustKeep.of(text)
    assert gate.limits == pytest.approx(limits)
    assert gate.limit("other") == pytest.approx(limits.get("*"))


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "agnews", "agnews:", "agnews:-2", "agnews:-2%", "agnews:+2pt", "agnews:--2pt", ":-2pt", "a:-2pt,",
        "a:-2pt a:-3pt", "a:-101pt", "a:-1e1pt", "a:-infpt", "a:-nanpt", "a:-2pt,a:-3pt", "*:-1pt,*:-1pt", "a:-٣pt",
        "a\x00:-x", "a:b:-2pt",
    ],
)  # fmt: skip
def test_requirements_that_are_none(text: str) -> None:
    with pytest.raises(RecipeError, match="must_keep"):
        MustKeep.of(text)


def test_names_that_nothing_is_known_of() -> None:
    gate = MustKeep.of("animals:-1pt, hellaswag:-1pt")
    with pytest.raises(RecipeError, match="does not measure 'hellaswag'"):
        gate.check(["animals"], [])
    gate.check(["animals"], ["hellaswag"])
    with pytest.raises(RecipeError, match="'animals' is not a task that this store has learned"):
        gate.check(["animal"], ["hellaswag"])


def lines(right: list[bool], **more: Any) -> list[dict[str, Any]]:
    return [{"answer": "yes" if one else "no", "target": "yes", "right": one, **more} for one in right]


def required(name: str, may_lose: float) -> Requirement:
    return Requirement(name, "task", may_lose, "0" * 16)


def naive_interval(before: list[float], after: list[float], seed: int, samples: int = 20_000) -> tuple[float, float]:
    """Rows are drawn one by one, both versions' answers to each together."""
    rng = np.random.default_rng(seed)
    changes = np.array(after) - np.array(before)
    means = [changes[rng.integers(len(changes), size=len(changes))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def task_of(rows: int, metric: str = "exact_match") -> Task:
    test = tuple(Row(f"row {number}", ("yes", "no")[number % 2]) for number in range(rows))
    return Task("animals", test, (), test, Template(), ("yes", "no"), metric=metric)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_a_paired_bootstrap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = (rng.random(120) < 0.8).tolist()
    after = [one if rng.random() < 0.9 else not one for one in before]
    found = required("animals", 0.02).judged_task(lines(before), lines(after), task_of(120), SEED)
    low, high = naive_interval([float(one) for one in before], [float(one) for one in after], seed)
    assert found.before == pytest.approx(np.mean(before))
    assert found.after == pytest.approx(np.mean(after))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    assert found.rows == 120


def test_rows_are_paired() -> None:
    """Equal answers leave no doubt, however few they are; answers of equal scores to other rows do."""
    one, other = [True, False] * 20, [False, True] * 20
    same = required("animals", 0.0).judged_task(lines(one), lines(one), task_of(40), SEED)
    swapped = required("animals", 0.05).judged_task(lines(one), lines(other), task_of(40), SEED)
    assert (same.low, same.high, same.kept) == (0.0, 0.0, "kept")
    assert same.before == swapped.before == swapped.after
    assert swapped.kept == "unclear"
    assert swapped.low is not None
    assert swapped.low < -0.2


@pytest.mark.parametrize("metric", ["macro_f1", "bleu"])
def test_metrics_of_all_answers_are_scored_anew(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nacre.store.gate.SCORED_SAMPLES", draw_number := 200)
    rng = np.random.default_rng(1)
    words = ("the cat sat on the mat", "a dog ran in the park", "we all like red fish")
    labels = None if metric == "bleu" else words
    test = tuple(Row(f"row {number}", words[number % 3]) for number in range(36))
    task = Task("animals", test, (), test, Template(), labels, metric=metric)
    answers = [[row.target if rng.random() < share else words[rng.integers(3)] for row in test] for share in (0.9, 0.6)]
    found = required("animals", 0.02).judged_task(
        *([{"answer": one, "right": False} for one in own] for own in answers), task, SEED
    )
    values = [score(task, own).value for own in answers]
    assert (found.before, found.after) == pytest.approx(tuple(values))
    draws = np.random.default_rng(derive(SEED, "gate", "animals"))
    changes = []
    for _ in range(draw_number):
        rows = draws.integers(36, size=36)
        drawn = Task("animals", (), (), tuple(test[row] for row in rows), Template(), labels, metric=metric)
        first, second = (score(drawn, [own[row] for row in rows]).value for own in answers)
        changes.append(second - first)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(changes, [0.025, 0.975])))
    assert found.low is not None
    assert found.low < values[1] - values[0] < found.high  # type: ignore[operator]


def test_text_is_judged_by_its_tokens() -> None:
    before = [{"right": 8, "tokens": 10}, {"right": 2, "tokens": 10}, {"right": 5, "tokens": 20}]
    after = [{"right": 6, "tokens": 10}, {"right": 2, "tokens": 10}, {"right": 9, "tokens": 20}]
    found = required("text", 0.5).judged_task(before, after, task_of(3), SEED)
    assert (found.before, found.after) == pytest.approx((15 / 40, 17 / 40))


def test_benchmarks_are_judged_by_their_headline() -> None:
    def scores(right: list[bool]) -> AbilityScore:
        values = {"acc": [True] * len(right), "acc_norm": right}
        return AbilityScore(
            task="hellaswag", rows=len(right), scores={key: score_of(own) for key, own in values.items()}, truncated=0,
            seconds=0.0, right=values,
        )  # fmt: skip

    found = Requirement("hellaswag", "benchmark", 0.1, "0" * 16).judged_benchmark(
        scores([True] * 50), scores([False] * 50), SEED
    )
    assert (found.name, found.kind, found.before, found.after, found.kept) == (
        "hellaswag",
        "benchmark",
        1.0,
        0.0,
        "lost",
    )


def test_what_was_not_measured() -> None:
    for before, after in ((None, lines([True])), (lines([True]), None), (lines([True]), lines([True] * 2))):
        found = required("animals", 1.0).judged_task(before, after, task_of(1), SEED)
        assert (found.kept, found.rows, found.before) == ("not measured", 0, None)


@pytest.mark.parametrize(
    ("right", "may_lose", "kept"),
    [
        (100, 0.0, "kept"), (97, 0.02, "unclear"), (97, 0.10, "kept"), (50, 0.02, "lost"), (50, 0.50, "unclear"),
        (96, 0.03, "unclear"),
    ],
)  # fmt: skip
def test_kept_lost_and_unclear(right: int, may_lose: float, kept: str) -> None:
    after = [True] * right + [False] * (100 - right)
    found = required("animals", may_lose).judged_task(lines([True] * 100), lines(after), task_of(100), SEED)
    assert found.kept == kept


@pytest.mark.parametrize(("unclear", "right", "passes"), [("fail", 98, False), ("pass", 98, True), ("pass", 96, False)])
def test_what_is_unclear(unclear: Unclear, right: int, passes: bool) -> None:
    after = [True] * right + [False] * (100 - right)
    found = required("animals", 0.03).judged_task(lines([True] * 100), lines(after), task_of(100), SEED)
    assert found.kept == "unclear"
    assert found.passes(unclear) == passes


def test_a_version_that_lost_too_much_does_not_answer(
    data: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Damage is planted: the second task's labels are the first one's, turned around."""
    optim = {"batch_size": 8, "learning_rate": 0.01, "epochs": 12}
    settings = settings_of(tiny_model("roberta"), "seq_ft", optim=optim)
    store = new_store(tmp_path / "store", settings)
    first = taught(store, data, NAMES[0])[0]
    assert first.version.tasks[0].score is not None
    assert first.version.tasks[0].score.value > 0.8
    damage = tmp_path / "damage" / "turned"
    damage.mkdir(parents=True)
    for file in (data / NAMES[0]).iterdir():
        text = file.read_text()
        if file.suffix == ".jsonl":
            text = text.replace('"label": "yes"', '"label": "?"').replace('"label": "no"', '"label": "yes"')
            text = text.replace('"label": "?"', '"label": "no"')
        (damage / file.name).write_text(text)
    outcome = taught(store, damage.parent, "turned", must_keep="animals:-5pt")[0]
    assert not outcome.promoted
    assert store.current == first.name
    assert outcome.verdict is not None
    judgment = outcome.verdict.judgments[0]
    assert (judgment.name, judgment.kept) == ("animals", "lost")
    assert judgment.after is not None
    assert judgment.after <= 0.5
    assert store.verdict(outcome.name) == outcome.verdict
    assert outcome.verdict == judge(store, first.name, outcome.name, MustKeep.of("animals:-5pt"))
    page = outcome.page
    assert page is not None
    assert "Not passed" in page.read_text()
    assert "Not passed" in page.with_suffix(".html").read_text()
    again = taught(store, damage.parent, "turned", must_keep="animals:-100pt")[0]
    assert again.already
    assert again.promoted
    assert store.current == outcome.name


def test_small_losses_do_not_add_up(data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Against the version that had just learned the task, a loss that came in two steps counts whole."""
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5"), against="learned"))
    first, second, third = taught(store, data, *NAMES)
    gate = "*:-100pt"
    for against, names in (("before", [second.name, second.name]), ("learned", [first.name, second.name])):
        verdict = judge(store, second.name, third.name, MustKeep.of(gate, against=against))  # type: ignore[arg-type]
        assert [each.against for each in verdict.judgments] == names
        for each in verdict.judgments:
            known = store.read(each.against).learned(each.name)
            assert known is not None
            assert known.score is not None
            assert each.before == known.score.value
    outcome = taught(store, write_tasks(tmp_path / "more", ("extra",)), "extra", must_keep=gate)[0]
    assert outcome.verdict is not None
    assert [each.against for each in outcome.verdict.judgments] == [first.name, second.name, third.name]


def verdict_of(*judgments: Judgment, must_keep: str = "*:-1pt") -> GateVerdict:
    return GateVerdict(
        version="0" * 16, before="1" * 16, task="tools", must_keep=must_keep, unclear="fail",
        passed=all(judgment.kept == "kept" for judgment in judgments), judgments=list(judgments), level=0.95,
        samples=SAMPLES, seed=SEED,
    )  # fmt: skip


def test_names_do_no_harm_in_a_verdict() -> None:
    name = "<script>alert(1)</script>|`*_[x](y)"
    judgment = required(name, 0.01).judged_task(lines([True] * 9), lines([False] * 9), task_of(9), SEED)
    verdict = verdict_of(judgment, must_keep=f"{name}:-1pt")
    assert "<script>" not in as_html(verdict)
    assert "&lt;script&gt;" in as_html(verdict)
    table = [line for line in as_markdown(verdict).split("\n") if line.startswith("| ")]
    assert [line.replace("\\|", "").count("|") for line in table] == [10, 10]
    assert "<script>" not in as_markdown(verdict)


def test_sentences() -> None:
    kept = required("animals", 0.1).judged_task(lines([True] * 9), lines([True] * 9), task_of(9), SEED)
    lost = required("plants", 0.1).judged_task(lines([True] * 9), lines([False] * 9), task_of(9), SEED)
    missing = required("tools", 0.1).judged_task(None, None, None, SEED)
    assert sentence(verdict_of()) == f"Version {'0' * 16} passes the gate: there was nothing to keep yet."
    assert sentence(verdict_of(kept)) == f"Version {'0' * 16} keeps what it must: 1 score judged."
    assert sentence(verdict_of(kept, lost, missing)) == (
        f"Version {'0' * 16} does not pass the gate. Lost: plants 100.0 to 0.0 % (−100.0 to −100.0 points on 9 rows; "
        "may lose 10.0). Not measured: tools."
    )
