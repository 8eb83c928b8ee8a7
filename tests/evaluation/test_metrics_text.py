"""Metrics of written answers against values worked out by hand."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import pytest

from nacre.errors import DataError, NacreError
from nacre.evaluation import text_metrics
from nacre.evaluation.scoring import _BY_REFERENCE, _TOGETHER, check_metric, score
from nacre.tasks.metrics import TASK_METRICS, metric_name
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template


def task(metric: str, *rows: Row | str, labels: tuple[str, ...] | None = None) -> Task:
    """A task with these test rows, or with rows of these targets."""
    made = tuple(row if isinstance(row, Row) else Row("a text", row) for row in rows)
    return Task("mine", made, made, made, Template(), labels, metric)


def test_every_metric_has_a_function():
    assert {*_BY_REFERENCE, *_TOGETHER, "sari"} == set(TASK_METRICS)
    assert set(text_metrics.PACKAGES) <= set(TASK_METRICS)


@pytest.mark.parametrize("metric", TASK_METRICS)
def test_perfect_answers_have_one_and_empty_ones_nothing(metric):
    # The text is not the target: SARI would have nothing to add then.
    rows = [Row("a stone under the red lamp", target) for target in ("the old cat sat here", "a big dog saw the sea")]
    mine = task(metric, *rows, labels=tuple(row.target for row in rows) if TASK_METRICS[metric].needs_labels else None)
    check_metric(mine)
    perfect = score(mine, [row.target for row in rows])
    assert perfect.value == pytest.approx(1, abs=1e-12)
    assert perfect.value <= 1
    assert perfect.accuracy == 1
    empty = score(mine, ["", " \n"])
    assert (empty.value, empty.accuracy) == (0, 0)
    half = score(mine, [rows[0].target, ""])
    # F1 of the first label 1, of the second 0; BLEU: all n-grams right, brevity exp(1 - 11 / 5).
    assert half.value == pytest.approx(math.exp(1 - 11 / 5) if metric == "bleu" else 0.5, abs=1e-12)


@pytest.mark.parametrize("metric", sorted(set(TASK_METRICS) - {"bleu", "macro_f1"}))
def test_the_best_reference_counts(metric):
    row = Row("what was it ?", "stone lamp", ("seventy seven cats under the sea", "stone lamp"))
    assert row.accepted == ("stone lamp", "seventy seven cats under the sea", "stone lamp")
    found = score(task(metric, row), ["seventy seven cats under the sea"])
    assert found.right == (True,)
    if metric == "sari":  # looks at all references together
        assert 0 < found.value < 1
    else:
        assert found.value == 1
        assert score(task(metric, Row(row.text, row.target)), ["seventy seven cats under the sea"]).value < 1 or (
            metric == "first_character"
        )


def test_rows_have_scores_whose_mean_is_the_tasks():
    found = score(task("rouge_l", "the cat sat", "the cat sat", "a dog"), ["the cat", "the cat sat", "sat"])
    assert found.by_row == (pytest.approx(0.8), 1.0, 0.0)
    assert found.value == pytest.approx(0.6)
    assert found.accuracy == pytest.approx(1 / 3)
    assert score(task("bleu", "the cat sat on it"), ["the cat sat on it"]).by_row is None


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("the cat", "the cat sat", 0.8),  # common 2, precision 1, recall 2/3
        ("the cat sat", "the cat", 0.8),
        ("sat cat the", "the cat sat", 1 / 3),  # in order, one word
        ("The CATS!", "the cat", 1.0),  # letters and stems only
        ("dog", "the cat sat", 0.0),
        ("a b c d", "a x c y", 0.5),
    ],
)
def test_rouge_l(answer, reference, value):
    assert text_metrics.rouge_l(answer, reference) == pytest.approx(value, abs=1e-12)


def test_rouge_l_of_another_script_is_refused_before_anything_is_learnt():
    with pytest.raises(DataError, match=r"Task 'mine': metric rouge_l reads the letters a to z and digits only"):
        check_metric(task("rouge_l", "这是态度", "名前"))
    check_metric(task("rouge_l", "这是态度", "name"))


def test_bleu():
    # 4-grams 1 of 1, 3-grams 2 of 2 ...; brevity exp(1 - 5/4).
    assert text_metrics.bleu(["the cat sat on"], [["the cat sat on it"]]) == pytest.approx(math.exp(-0.25), abs=1e-12)
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples; of three 4-grams none, which sacrebleu counts as half of one.
    precisions = (5 / 6) * (3 / 5) * (1 / 4) * (1 / 6)
    found = text_metrics.bleu(["the cat sat dog the mat"], [["the cat sat on the mat"]])
    assert found == pytest.approx(precisions**0.25, abs=1e-12)
    # The second row has a reference more than the first, and it is the one that fits.
    rows = [["a b c d e"], ["x", "f g h i j"]]
    assert text_metrics.bleu(["a b c d e", "f g h i j"], rows) == 1


def test_sari():
    """The example of Hugging Face's metric card and, averaged with a second, of a discussion of it."""
    first = (
        "About 95 you now get in.",
        ["About 95 species are currently known.", "About 95 species are now accepted.", "95 species are now accepted."],
        "About 95 species are currently accepted.",
    )
    second = (
        "Cat on mat.",
        ["The cat sat on the mat.", "The cat is on the mat.", "The cat sat."],
        "The cat perched on the mat.",
    )
    assert text_metrics.sari(*first) == pytest.approx(0.26953601953601954, abs=1e-15)
    both = (text_metrics.sari(*first) + text_metrics.sari(*second)) / 2
    assert both == pytest.approx(0.2913266517433184, abs=1e-15)


def test_sari_by_hand():
    # Source "a b", answer "a c", reference "a d". One word: keep 1 and 1, delete b rightly 1, add c wrongly 0.
    # Two: nothing kept (no pair to keep: 1), delete "a b" 1, add "a c" wrongly 0. Longer: none at all, 1 each.
    one, two, longer = (1 + 1 + 0) / 3, (1 + 1 + 0) / 3, 1
    assert text_metrics.sari("a c", ["a d"], "a b") == pytest.approx((one + two + 2 * longer) / 4, abs=1e-15)


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("abc", "abd", 2 / 3),  # one deletion and one insertion in six letters
        ("return x", "return x", 1),
        ("ab", "cd", 0),
        ("x = <NUM_LIT:200>", "x = 200", 1),
        ("f ( '<STR_LIT:a b>' )", "f ( 'a b' )", 1),
        ("<NUM_LIT><STR_LIT>", "0", 1),
        ("名前", "名", 2 / 3),
    ],
)
def test_edit_similarity(answer, reference, value):
    assert text_metrics.edit_similarity(answer, reference) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", Fraction(5)),
        (" 5.0\n", Fraction(5)),
        ("5.", Fraction(5)),
        ("-.5", Fraction(-1, 2)),
        ("+17.48", Fraction(437, 25)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1,23", None),
        ("5 km", None),
        ("five", None),
        ("", None),
        ("1e3", None),
        ("٣", None),
    ],
)
def test_as_number(text, number):
    assert text_metrics.as_number(text) == number


@pytest.mark.parametrize(
    ("metric", "answer", "target", "value"),
    [
        ("number", "5.0", "5", 1),
        ("number", "17.48", "1748", 0),  # exact match would delete the point
        ("number", "-5", "5", 0),
        ("number", "five", "5", 0),
        ("number", "wednesday.", "Wednesday", 1),
        ("number", "0.30", "0.3", 1),
        ("exact_string", "5.0", "5", 0),
        ("exact_string", " 5 ", "5", 1),
        ("exact_string", "b", "B", 0),
        ("exact_match", "b.", "B", 1),
        ("first_character", "B) because", "B\nA clause is", 1),
        ("first_character", "b", "B", 0),
        ("first_character", "", "B", 0),
    ],
)
def test_of_single_answers(metric, answer, target, value):
    assert score(task(metric, target), [answer]).value == value


def test_macro_f1():
    # a: 2 of 3 answers right, 2 of 3 rows found, F1 2/3. b: answered twice, once rightly, of two rows: 1/2.
    # c is no row's label and is answered once; that is a miss for its row. "none" is no label: a miss, too.
    mine = task("macro_f1", "a", "a", "a", "b", "b", labels=("a", "b", "c"))
    found = score(mine, ["A.", "a", "none", "b", "c"])
    a, b = 2 * 1 * (2 / 3) / (1 + 2 / 3), 2 * 1 * 0.5 / 1.5
    assert found.value == pytest.approx((a + b) / 2, abs=1e-12)
    assert found.accuracy == 0.6
    assert found.valid == 0.8
    assert found.by_row is None
    swapped = score(mine, ["b", "b", "b", "a", "a"])
    assert swapped.value == 0


def test_macro_f1_needs_labels():
    with pytest.raises(DataError, match="Task 'mine': metric macro_f1 needs a label set, and the task has free text"):
        check_metric(task("macro_f1", "a"))


def test_unknown_metric():
    with pytest.raises(DataError, match=r"Task 'mine': there is no metric 'rouge_m'\. Did you mean rouge_l\?"):
        check_metric(task("rouge_m", "a"))


@pytest.mark.parametrize(
    ("metric", "module", "package"),
    [
        ("rouge_l", "rouge_score", "rouge-score"),
        ("bleu", "sacrebleu", "sacrebleu"),
        ("sari", "sacrebleu", "sacrebleu"),
        ("edit_similarity", "rapidfuzz", "rapidfuzz"),
        ("macro_f1", "sklearn", "scikit-learn"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_learnt(metric, module, package, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    mine = task(metric, "a", labels=("a",) if TASK_METRICS[metric].needs_labels else None)
    with pytest.raises(NacreError) as caught:
        check_metric(mine)
    assert str(caught.value) == (
        f"The metric {metric} needs the package '{package}', which is not installed: pip install 'nacre[metrics]'."
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rouge_l", "rouge_l"),
        ("ROUGE-L", "rouge_l"),
        ("SARI", "sari"),
        ("edit similarity", "edit_similarity"),
        ("accuracy", "exact_match"),
        ("macro F1", "macro_f1"),
        ("F2", None),
        ("", None),
    ],
)
def test_metric_name(text, name):
    assert metric_name(text) == name
