"""A sweep's figure shows what its runs have come to, where the table says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from nacre.errors import RecipeError
from nacre.records.run import RunRecord
from nacre.report.drawing import as_file
from nacre.sweeps.figure import figure_of
from nacre.sweeps.grid import SweepSettings
from nacre.sweeps.published import Found, PublishedTable

AXES = {"method": ["seq_lora", "o_lora"], "stream": ["order1", "order2"], "seed": ["1", "2"]}
TABLE = PublishedTable(
    source="A paper, Table 1",
    rows="method",
    columns="stream",
    numbers={"paper": {"seq_lora": {"order1": 44.6}}},
    expected={"o_lora": {"order2": (30, 50)}},
)


class Record:
    """As much of a run's record as a figure reads."""

    def __init__(self, average: float, matrix: Sequence[Sequence[float | None]] = ()) -> None:
        self.average, self.matrix, self.tasks = average, matrix, ("animals", "plants")

    def value(self, metric: str) -> float:
        assert metric == "average_accuracy"
        return self.average


def found(method: str, stream: str, seed: int, record: Record) -> Found:
    return Found({"method": method, "stream": stream, "seed": str(seed)}, cast(RunRecord, record))


RUNS = [
    found("seq_lora", "order1", 1, Record(0.40)),
    found("seq_lora", "order1", 2, Record(0.50)),
    found("o_lora", "order1", 1, Record(0.60)),
    found("o_lora", "order2", 1, Record(0.45)),
]


def lines(plot: Any) -> dict[str, list[tuple[float, float]]]:
    """The points of each line that the legend names."""
    drawn = zip(*plot.get_legend_handles_labels(), strict=True)
    named = {label: getattr(handle, "lines", [handle])[0] for handle, label in drawn if "expected" not in label}
    return {
        label: [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)] for label, line in named.items()
    }


def test_means_stand_where_the_table_has_them() -> None:
    (plot,) = figure_of(TABLE, AXES, RUNS).axes
    shown = lines(plot)
    assert {label: [round(y, 6) for _, y in points] for label, points in shown.items()} == {
        "nacre, order1": [45, 60],
        "paper, order1": [44.6],
        "nacre, order2": [45],
    }
    assert [x for x, _ in shown["nacre, order1"]] == [shown["paper, order1"][0][0], 0.875]
    assert [text.get_text() for text in plot.get_xticklabels()] == AXES["method"]


def test_numbers_stand_on_a_line() -> None:
    axes = {"rank": ["2", "8", "16"], "seed": ["1"]}
    runs = [
        Found({"rank": rank, "seed": "1"}, cast(RunRecord, Record(0.1 * place)))
        for place, rank in enumerate(axes["rank"])
    ]
    (plot,) = figure_of(PublishedTable(rows="rank"), axes, runs).axes
    assert [x for x, _ in lines(plot)["nacre"]] == [2, 8, 16]


def test_tasks_are_followed_from_their_own_stage_on() -> None:
    matrix = [[0.1, 0.2], [0.9, 0.3], [0.7, 0.8]]
    runs = [
        found("seq_lora", "order1", seed, Record(0, [[score + seed / 100 for score in row] for row in matrix]))
        for seed in (1, 2)
    ]
    follow = TABLE.model_copy(update={"follow": 2})
    first, second, *others = figure_of(follow, AXES, runs).axes
    assert [(x, round(y, 6)) for x, y in lines(first)["seq_lora"]] == [(1, 91.5), (2, 71.5)]
    assert [(x, round(y, 6)) for x, y in lines(second)["seq_lora"]] == [(2, 81.5)]
    assert len(others) == 2  # of order 2
    assert first.get_title() == "order1 animals"


def test_the_same_numbers_give_the_same_file() -> None:
    for kind in ("png", "svg", "pdf"):
        one, other = (as_file(figure_of(TABLE, AXES, RUNS), kind) for _ in range(2))
        assert one == other


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(RecipeError, match="No run of this sweep is finished"):
        figure_of(TABLE, AXES, [])


@pytest.mark.parametrize(
    ("vary", "rows", "columns"),
    [({"method": ["a"], "seed": [1]}, "method", None), ({"method": ["a"], "stream": ["b"]}, "method", "stream")],
)
def test_what_is_varied_is_shown_without_a_published_table(
    vary: dict[str, Any], rows: str, columns: str | None
) -> None:
    shown = SweepSettings(vary=vary).shown
    assert (shown.rows, shown.columns) == (rows, columns)


def test_too_much_is_varied() -> None:
    with pytest.raises(RecipeError, match="varies method, stream, rank: name the figure's rows under published"):
        _ = SweepSettings(vary={"method": ["a"], "stream": ["b"], "rank": [1]}).shown
