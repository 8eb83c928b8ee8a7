"""The metrics, against matrices worked out by hand, against each other, and where an entry is not defined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.evaluation.matrix import DEFINITIONS, RUN_METRICS, run_metrics
from nacre.records.run import RunRecord

Matrix = list[list[float | None]]

NONE = None  # so that a matrix stays a square of three letters or numbers


def test_every_metric_is_defined_in_words() -> None:
    assert list(DEFINITIONS) == [metric.key for metric in RUN_METRICS]
    assert all(key in RunRecord.model_fields for key in DEFINITIONS)
    assert list(run_metrics([[0.5], [0.5]], [1])) == list(DEFINITIONS)


def test_three_tasks_by_hand() -> None:
    found = run_metrics(
        [
            [0.10, 0.20, 0.30],
            [0.90, 0.25, 0.35],
            [0.70, 0.80, 0.45],
            [0.60, 0.85, 0.75],
        ],
        [10, 20, 70],
    )
    assert found["average_accuracy"] == pytest.approx(2.20 / 3)
    assert found["learning_accuracy"] == pytest.approx(2.45 / 3)
    assert found["pooled_accuracy"] == pytest.approx(0.755)  # (6 + 17 + 52.5) / 100
    assert found["incremental_accuracy"] == pytest.approx((0.90 + 0.75 + 2.20 / 3) / 3)
    assert found["forgetting"] == pytest.approx(0.125)  # (0.9 - 0.6, 0.8 - 0.85), not clipped
    assert found["backward_transfer"] == pytest.approx(-0.125)
    assert found["forward_transfer"] == pytest.approx(0.10)  # (0.25 - 0.20, 0.45 - 0.30)


def test_forgetting_counts_from_the_best_score_since_the_task_was_learnt() -> None:
    found = run_metrics(
        [
            [1.0, 1.0, 1.0],  # before: no score of a task that was not learnt yet counts
            [0.5, 1.0, 1.0],
            [0.8, 0.6, 1.0],
            [0.4, 0.7, 0.9],
        ],
        [1, 1, 1],
    )
    assert found["forgetting"] == pytest.approx(0.15)  # (0.8 - 0.4, 0.6 - 0.7)
    assert found["backward_transfer"] == pytest.approx(0.0)  # (0.4 - 0.5, 0.7 - 0.6)
    assert found["forward_transfer"] == pytest.approx(0.0)


def test_two_tasks_by_hand() -> None:
    found = run_metrics([[0.0, 0.5], [1.0, 0.25], [0.25, 0.75]], [3, 1])
    assert found == {
        "average_accuracy": 0.5,
        "learning_accuracy": 0.875,
        "pooled_accuracy": 0.375,
        "incremental_accuracy": 0.75,
        "forgetting": 0.75,
        "backward_transfer": -0.75,
        "forward_transfer": -0.25,
    }


def test_one_task_has_no_transfer() -> None:
    for before in (0.25, NONE):
        assert run_metrics([[before], [0.75]], [8]) == dict(
            zip(DEFINITIONS, [0.75, 0.75, 0.75, 0.75, None, None, None], strict=True)
        )
    assert run_metrics([[0.25], [NONE]], [8]) == dict.fromkeys(DEFINITIONS)


def test_one_task_that_nobody_measured_before() -> None:
    """T = 1: what needs an earlier task is not defined, whatever the row before says; never 0."""
    found = run_metrics([[NONE], [0.0]], [3])
    assert found == dict(zip(DEFINITIONS, [0.0, 0.0, 0.0, 0.0, None, None, None], strict=True))


def test_negative_forgetting_is_no_forgetting_and_not_clipped() -> None:
    """Every task is better at the end than it ever was before."""
    found = run_metrics(
        [
            [0.0, 0.0, 0.0],
            [0.5, 0.0, 0.0],
            [0.6, 0.4, 0.0],
            [0.9, 0.8, 0.7],
        ],
        [1, 1, 1],
    )
    assert found["forgetting"] == pytest.approx(-0.35)  # (0.6 - 0.9, 0.4 - 0.8)
    assert found["backward_transfer"] == pytest.approx(0.4)  # (0.9 - 0.5, 0.8 - 0.4): not the same number
    one_each_way = run_metrics([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.9, 0.0], [0.9, 0.8, 0.7]], [1, 1, 1])
    assert one_each_way["forgetting"] == pytest.approx(-0.15)  # (0.5 - 0.9, 0.9 - 0.8); clipped, it would be 0.05


def test_a_task_absent_before_it_is_learnt() -> None:
    """Measured are only tasks that were learnt (``matrix: seen``): everything but forward transfer is defined, and the
    absent entries count as nothing, not as 0."""
    found = run_metrics(
        [
            [NONE, NONE, NONE],
            [0.8, NONE, NONE],
            [0.9, 0.3, NONE],
            [0.5, 0.4, 0.6],
        ],
        [10, 10, 20],
    )
    assert found["average_accuracy"] == pytest.approx(0.5)
    assert found["learning_accuracy"] == pytest.approx(1.7 / 3)  # 0.8, 0.3, 0.6
    assert found["pooled_accuracy"] == pytest.approx(0.525)  # (5 + 4 + 12) / 40
    assert found["incremental_accuracy"] == pytest.approx(1.9 / 3)  # 0.8, 0.6, 0.5
    assert found["forgetting"] == pytest.approx(0.15)  # (0.9 - 0.5, 0.3 - 0.4)
    assert found["backward_transfer"] == pytest.approx(-0.1)  # (0.5 - 0.8, 0.4 - 0.3)
    assert found["forward_transfer"] is None
    # The row before is enough for none of it: what is missing is each task right before it is learnt.
    for row, column in ((0, 1), (1, 1), (0, 2)):
        half: Matrix = [[0.1, 0.1, 0.1], [0.8, 0.2, NONE], [0.9, 0.3, 0.2], [0.5, 0.4, 0.6]]
        assert run_metrics(half, [1, 1, 1])["forward_transfer"] == pytest.approx(0.1)
        half[row][column] = None
        assert run_metrics(half, [1, 1, 1])["forward_transfer"] is None


def test_absent_entries_are_no_worst_score() -> None:
    """A model below 0 is a perplexity with its sign turned: an absent entry taken for 0 would be the best of all."""
    found = run_metrics([[NONE, NONE], [-3.0, NONE], [-5.0, -2.0]], [1, 1])
    assert found["forgetting"] == pytest.approx(2.0)
    assert found["backward_transfer"] == pytest.approx(-2.0)


def test_joint_has_a_last_row_only() -> None:
    for before in ([0.25, 0.25, 0.0], [NONE, NONE, NONE]):
        found = run_metrics([before, [NONE, NONE, NONE], [NONE, NONE, NONE], [1.0, 0.5, 0.75]], [1, 1, 2])
        assert found == {
            "average_accuracy": 0.75,
            "learning_accuracy": None,
            "pooled_accuracy": 0.75,
            "incremental_accuracy": None,
            "forgetting": None,
            "backward_transfer": None,
            "forward_transfer": None,
        }


def test_independent_never_changes_a_score() -> None:
    found = run_metrics([[0.0, 0.5, 0.25], [1.0, NONE, NONE], [1.0, 0.5, NONE], [1.0, 0.5, 0.75]], [1, 1, 2])
    assert found == {
        "average_accuracy": 0.75,
        "learning_accuracy": 0.75,
        "pooled_accuracy": 0.75,
        "incremental_accuracy": pytest.approx(2.5 / 3),  # 1, 0.75, 0.75
        "forgetting": 0.0,
        "backward_transfer": 0.0,
        "forward_transfer": None,
    }


T = 4
NEEDS = {  # (row, column) from 0, written out from the formulas' words
    "average_accuracy": {(4, 0), (4, 1), (4, 2), (4, 3)},
    "learning_accuracy": {(1, 0), (2, 1), (3, 2), (4, 3)},
    "pooled_accuracy": {(4, 0), (4, 1), (4, 2), (4, 3)},
    "incremental_accuracy": {(i, j) for i in range(1, 5) for j in range(i)},
    "forgetting": {(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)},
    "backward_transfer": {(1, 0), (2, 1), (3, 2), (4, 0), (4, 1), (4, 2)},
    "forward_transfer": {(1, 1), (2, 2), (3, 3), (0, 1), (0, 2), (0, 3)},
}


@pytest.mark.parametrize(("row", "column"), [(row, column) for row in range(T + 1) for column in range(T)])
def test_one_missing_entry_takes_exactly_the_metrics_that_need_it(row: int, column: int) -> None:
    matrix: Matrix = [[(7 * i + 3 * j) % 10 / 10 for j in range(T)] for i in range(T + 1)]
    whole = run_metrics(matrix, [1, 2, 3, 4])
    assert None not in whole.values()
    matrix[row][column] = None
    for name, value in (run_metrics(matrix, [1, 2, 3, 4])).items():
        assert value == (None if (row, column) in NEEDS[name] else whole[name]), name


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """T + 1 rows of T fractions."""
    count = draw(st.integers(2, 6))
    row: st.SearchStrategy[list[float | None]] = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    return draw(st.lists(row, min_size=count + 1, max_size=count + 1))


@given(matrices())
def test_forgetting_is_at_least_what_backward_transfer_lost(matrix: Matrix) -> None:
    found = run_metrics(matrix, [1] * len(matrix[0]))
    assert found["forgetting"] is not None
    assert found["backward_transfer"] is not None
    assert found["forgetting"] >= -found["backward_transfer"] - 1e-12


@given(matrices())
def test_learning_less_average_is_what_was_lost_since(matrix: Matrix) -> None:
    count = len(matrix[0])
    found = run_metrics(matrix, [1] * count)
    assert found["learning_accuracy"] is not None
    assert found["average_accuracy"] is not None
    assert found["backward_transfer"] is not None
    lost = found["learning_accuracy"] - found["average_accuracy"]
    assert lost == pytest.approx(-(count - 1) / count * found["backward_transfer"], abs=1e-12)


@given(matrices(), st.lists(st.integers(1, 10_000), min_size=6, max_size=6))
def test_pooled_is_the_share_of_right_rows(matrix: Matrix, sizes: list[int]) -> None:
    rows = sizes[: len(matrix[0])]
    last = [score or 0.0 for score in matrix[-1]]
    found = run_metrics(matrix, rows)
    expected = sum(n * score for n, score in zip(rows, last, strict=True)) / sum(rows)
    assert found["pooled_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert run_metrics(matrix, [7] * len(last))["pooled_accuracy"] == pytest.approx(
        found["average_accuracy"], abs=1e-12
    )


@given(st.integers(2, 6), st.floats(0, 1))
def test_a_constant_matrix_forgets_nothing(count: int, level: float) -> None:
    found = run_metrics([[level] * count for _ in range(count + 1)], [1] * count)
    assert (found["forgetting"], found["backward_transfer"], found["forward_transfer"]) == (0, 0, 0)
    assert found["average_accuracy"] == pytest.approx(level)
