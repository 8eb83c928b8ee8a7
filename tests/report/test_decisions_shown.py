"""What a learner decided, on its run's page: the record's numbers, as a table, a diagram and a map."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from helpers.command import one_line
from helpers.page import Page
from helpers.reports import BROKEN, FIFTEEN, FOUR, ODD, SMALLEST, record
from nacre.records.decisions import Decisions, KindCounts, MapPoint, Reliability, TaskMap, share_right
from nacre.records.view import RunView
from nacre.report import render, write_report
from nacre.report.decisions import decision_section
from nacre.report.names import columns
from nacre.report.task_map import COLUMN, LINE, SIDE, MapDrawing, map_drawing

ROWS = 20


def decisions(tasks: Sequence[str] = FOUR, *, foreign: str = "", **changes: Any) -> Decisions:
    """Row i of a task: most are taken for it; all rows of the task `foreign` are."""
    counts, kinds, probabilities, right = [], [], list[float | None](), []
    draw = random.Random(len(tasks))
    for number, task in enumerate(tasks):
        own = [0] * (len(tasks) + 1)
        own[number] = ROWS - 2
        own[(number + 1) % len(tasks)] += 1
        own[-1] += 1
        if task == foreign:
            own = [0] * len(tasks) + [ROWS]
        counts.append(own)
        kinds.append(KindCounts(known=ROWS - own[-1], reworded=0, foreign=own[-1]))
        sure = [0.55 + 0.44 * draw.random() for _ in range(ROWS - own[-1])]
        probabilities += [*sure, *[None] * own[-1]]
        right += [place % 3 > 0 for place in range(len(sure))] + [False] * own[-1]
    points = [
        MapPoint(task=task, label=f"{task}: <{number}>", x=9 * draw.random(), y=4 * draw.random())
        for task in tasks
        for number in range(2)
    ]
    fields: dict[str, Any] = {
        "by": "readout",
        "tasks": list(tasks),
        "taken_for": list(tasks),
        "counts": counts,
        "right": share_right(tasks, tasks, counts),
        "kinds": kinds,
        "calibration": Reliability.of(probabilities, right),
        "map": TaskMap(points=points, shown=0.734),
    }
    found = Decisions(**{**fields, **changes})
    assert list(found.problems()) == []
    return found


def drawn(tasks: Sequence[str] = FOUR, found: Decisions | None = None) -> str:
    return render([RunView(record(tuple(tasks), decisions=found or decisions(tasks)))])


@pytest.mark.parametrize("tasks", [("only",), FOUR, FIFTEEN, ODD], ids=("1", "4", "15", "odd"))
def test_the_confusion_holds_the_numbers_of_the_record(tasks: tuple[str, ...]) -> None:
    found = decisions(tasks)
    text = drawn(tasks, found)
    page = Page(text)
    expected = [[f"{100 * count / ROWS:.1f}" if count else "0" for count in row] for row in found.counts]
    assert page.cells(2) == expected
    width = len(tasks) + 1
    own = page.diagonal[-len(tasks) * width :]
    assert [place for place, mark in enumerate(own) if mark] == [
        number * width + number for number in range(len(tasks))
    ]
    assert page.hovers[-1] == f"{tasks[-1]}, taken for none: 1 of 20 rows"
    assert not page.tags & {"script", "b", "img", "link"}
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert page.scopeless == 0
    assert drawn(tasks, found) == text
    for task in tasks:
        assert escape(task) in text


def test_what_is_seen_is_said() -> None:
    text = one_line(" ".join(Page(drawn()).text))
    said = text[text.index("Decisions") :]
    assert "Of 80 test rows, 90.0 % were taken for their own task." in said
    assert "Most often mistaken: 1 row of ‘topics’, taken for ‘reviews’." in said
    assert "the method’s readout finds most likely" in said
    assert "topics 19 (95.0 %) 0 (0.0 %) 1 (5.0 %)" in said
    assert "The two axes show 73.4 % of how the labels spread." in said
    perfect = decisions(
        ("a", "b"), counts=[[20, 0, 0], [0, 20, 0]], right=1.0, kinds=None, calibration=None, by="routing"
    )
    text = one_line(" ".join(Page(drawn(("a", "b"), perfect)).text))
    assert "100.0 % were taken for their own task. A row was taken for the task whose slot answers it" in text
    assert "Kinds of rows" not in text
    assert "How sure the answers are" not in text


def test_a_task_whose_rows_are_all_foreign() -> None:
    found = decisions(("a", "b"), foreign="b")
    section = decision_section(found, "run")
    assert [cell.text for cell in section.confusion.rows[1].cells] == ["0", "0", "100.0"]
    assert "Most often mistaken: 20 rows of ‘b’, taken for none." in section.outcome
    assert "21 rows had an answer without a probability." in section.sureness
    assert "b 0 (0.0 %) 0 (0.0 %) 20 (100.0 %)" in one_line(" ".join(Page(drawn(("a", "b"), found)).text))
    nobody = decisions(("b",), foreign="b", map=None)
    assert nobody.calibration is None
    text = drawn(("b",), nobody)
    assert "0.0 % were taken for their own task" in text
    assert "How sure the answers are" not in text
    assert "Map of the tasks" not in text


def test_the_reliability_diagram_has_a_mark_for_each_bin_with_rows() -> None:
    sure = Reliability.of([0.02, 0.04, 0.85, 0.81, 1.0, None], [False, True, True, True, False, False])
    section = decision_section(decisions(("a",), counts=[[6, 0]], right=1.0, kinds=None, calibration=sure), "run")
    chart = section.reliability
    assert chart is not None
    diagonal, answers = chart.lines
    assert diagonal.faint == (((0.0, 100.0), (100.0, 0.0)),)
    assert [(point.x, point.y) for point in answers.points] == [(3.0, 50.0), (83.0, 0.0), (100.0, 100.0)]
    # From the diagonal to the mark: how far off the probabilities are.
    assert answers.faint == (((3.0, 97.0), (3.0, 50.0)), ((83.0, 17.0), (83.0, 0.0)), ((100.0, 0.0), (100.0, 100.0)))
    assert answers.points[1].hover == "80 to 90 %: 2 rows, given 83.0 %, right 100.0 %"
    assert section.bins is not None
    assert section.bins.rows[0] == ("0 to 10 %", ("2", "3.0 %", "50.0 %"))
    # (2 * 0.47 + 2 * 0.17 + 1 * 1) / 5, and (0.06 + 1.66 + 1 - 3) / 5
    assert "by 45.6 points on average over 5 rows" in section.sureness
    assert "too unsure by 5.6 points. 1 row had an answer without a probability." in section.sureness
    even = Reliability.of([0.5, 0.5], [True, False])
    fair = decision_section(decisions(("a",), counts=[[2, 0]], right=1.0, kinds=None, calibration=even), "run")
    assert "On the whole answers are neither too sure nor too unsure." in fair.sureness
    assert fair.reliability is not None
    assert fair.reliability.lines[1].faint == (((50.0, 50.0), (50.0, 50.0)),)
    lone = Reliability.of([0.1, *[0.95] * 20], [True] * 21)
    rare = decision_section(decisions(("a",), counts=[[21, 0]], right=1.0, kinds=None, calibration=lone), "run")
    assert rare.reliability is not None
    assert [point.mark for point in rare.reliability.lines[1].points] == ["ring", "lone"]


def at(task: str, *places: tuple[float, float]) -> list[MapPoint]:
    return [MapPoint(task=task, label=str(number), x=x, y=y) for number, (x, y) in enumerate(places)]


def test_a_unit_is_as_long_to_the_right_as_upwards() -> None:
    points = [*at("a", (-3.0, 1.0), (-3.0, -1.0)), *at("b", (5.0, 0.5))]
    found = map_drawing(TaskMap(points=points, shown=0.5), ["a", "b", "gone"])
    first, second, third = found.marks
    assert first.y < second.y  # upwards
    unit = found.radius
    assert second.y - first.y == pytest.approx(2 * unit, abs=0.02)
    assert third.x - first.x == pytest.approx(8 * unit, abs=0.02)
    assert (first.x + third.x, first.y + second.y) == pytest.approx((100, 100), abs=0.02)  # in the middle
    for tick, text in found.x_ticks:
        assert tick == pytest.approx(first.x + (float(text.replace("−", "-")) + 3) * unit, abs=0.05)
    for tick, text in found.y_ticks:
        assert tick == pytest.approx(first.y - (float(text.replace("−", "-")) - 1) * unit, abs=0.05)
    assert found.description == "a: 0 at −3.0, 1.0; 1 at −3.0, −1.0. b: 0 at 5.0, 0.5."
    assert [task for _, _, task in found.legend] == ["a", "b"]
    assert first.hover == "a: 0 (−3.0, 1.0)"


def inside(found: MapDrawing) -> bool:
    return all(found.radius <= place <= 100 - found.radius for own in found.marks for place in (own.x, own.y))


def overlapping(found: MapDrawing) -> list[tuple[str, str]]:
    """Names whose boxes meet in the smallest box in which they are shown."""

    def box(name: Any) -> tuple[float, float, float]:
        return name.x * SIDE / 100, name.y * SIDE / 100, columns(name.text) * COLUMN / 2

    pairs = [(one, other, box(one), box(other)) for one, other in combinations(found.names, 2)]
    return [
        (one.full, other.full)
        for one, other, (x, y, half), (u, v, wide) in pairs
        if abs(x - u) < half + wide - 0.1 and abs(y - v) < LINE - 0.1
    ]


@pytest.mark.parametrize("spread", [0.0, 0.3, 30.0])
def test_names_do_not_lie_on_each_other(spread: float) -> None:
    draw = random.Random(1)
    points = [point for task in FIFTEEN for point in at(task, *[(draw.gauss(0, spread), draw.gauss(0, spread))] * 2)]
    found = map_drawing(TaskMap(points=points, shown=1.0), FIFTEEN)
    assert sorted(name.full for name in found.names) == sorted(FIFTEEN)
    assert overlapping(found) == []
    assert inside(found)
    assert len({(style, shape) for style, shape, _ in found.legend}) == len(FIFTEEN)
    for name in found.names:
        half = columns(name.text) * COLUMN / 2
        assert half <= name.x * SIDE / 100 + 0.1
        assert name.x * SIDE / 100 <= SIDE - half + 0.1


def test_more_names_than_there_is_room_for_are_in_the_legend_alone() -> None:
    tasks = [f"{'x' * 60}{number}" for number in range(60)]
    found = map_drawing(TaskMap(points=[point for task in tasks for point in at(task, (0.0, 0.0))], shown=1.0), tasks)
    assert 10 < len(found.names) < 60
    assert overlapping(found) == []
    assert len(found.legend) == 60


def test_only_runs_that_decided_are_shown() -> None:
    silent = record(method="lda")
    text = render(
        [
            RunView(record(decisions=decisions())),
            RunView(silent),
            RunView(record(method="epi", decisions=decisions(by="routing"))),
        ]
    )
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    section = re.search(r'<section aria-labelledby="decisions">.*?</section>', text, re.DOTALL)
    assert section is not None
    assert re.findall(r'<h3 class="code">(.*?)</h3>', section[0]) == ["seq_lora", "epi"]
    assert 'id="decisions"' not in render([RunView(silent)])


NAMES = """() => [...document.querySelectorAll('.board text.label')].map(one => {
  const box = one.getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
})"""


def test_a_browser_draws_no_name_on_another(browser: Any, tmp_path: Path) -> None:
    """Also on paper, and in the narrowest window that shows names."""
    made = record(FIFTEEN, decisions=decisions(FIFTEEN))
    write_report(tmp_path / "report.html", [RunView(made)])
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    for media, width in (("screen", 1280), ("screen", 525), ("print", 720)):
        page.emulate_media(media=media)
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".board text.label").first.is_visible()
        boxes = page.evaluate(NAMES)
        assert len(boxes) == len(FIFTEEN)
        for (left, top, right, bottom), other in combinations(boxes, 2):
            assert left >= other[2] or other[0] >= right or top + 3 >= other[3] or other[1] + 3 >= bottom
    page.close()


def test_a_browser_shows_a_square_and_breaks_no_word(browser: Any, tmp_path: Path) -> None:
    for tasks in (("only",), FOUR, FIFTEEN, ODD):
        made = record(tasks, decisions=decisions(tasks), protocol={"max_length": 512})
        write_report(tmp_path / "report.html", [RunView(made)])
        page = browser.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            shown, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert shown <= room
            board = page.locator("svg.board").bounding_box()
            # Marks may stand over the box's edge, the box itself is a square.
            assert page.locator("svg.board").evaluate("one => one.clientWidth - one.clientHeight") == 0, board
            assert page.evaluate(SMALLEST) >= 12
            assert page.locator(".board text.label").first.is_visible() == (width == 1280)
            if tasks is not ODD:
                assert page.evaluate(BROKEN) == []
        page.close()
