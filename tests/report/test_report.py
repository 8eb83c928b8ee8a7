"""The report's page: its numbers are the record's, its text is escaped, and a browser opens it without a network."""

from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from helpers.command import one_line
from helpers.page import Page
from helpers.reports import BROKEN, FIFTEEN, FOUR, ODD, PROTOCOL, SMALLEST, record, score
from nacre.errors import NacreError
from nacre.evaluation.matrix import DEFINITIONS, RUN_METRICS, run_metrics
from nacre.files import hash_of
from nacre.records.end_tasks import EndAverage, EndTaskRecord
from nacre.records.plain import differing_keys
from nacre.records.predictions import Answered
from nacre.records.reading import read_record
from nacre.records.run import Matrix, RunRecord, Seconds, TokenCounts
from nacre.records.view import LossCurve, RunView, TaskSamples
from nacre.report import palette, render, write_report
from nacre.report.losses import loss_chart
from nacre.report.names import breakable, run_names, shorten
from nacre.report.numbers import percent, points, seconds, size, total_seconds
from nacre.report.sentence import outcome


def drawn(*records: RunRecord) -> str:
    """The page of records that have nothing beside them."""
    return render([RunView(record) for record in records])


@pytest.mark.parametrize("tasks", [("only",), FOUR, FIFTEEN, ODD], ids=("1", "4", "15", "odd"))
def test_cells_hold_the_numbers_of_the_record(tasks: tuple[str, ...]) -> None:
    made = record(tasks)
    page = Page(drawn(made))
    assert page.cells() == [[f"{100 * value:.1f}" for value in row if value is not None] for row in made.matrix]
    assert page.cells(1) == [["100.0"] * len(tasks)] * (len(tasks) + 1)
    size_of_map = (len(tasks) + 1) * len(tasks)
    just = [position for position, mark in enumerate(page.diagonal[:size_of_map]) if mark]
    assert just == [(index + 1) * len(tasks) + index for index in range(len(tasks))]
    assert page.hovers[-1] == f"after {tasks[-1]}, on {tasks[-1]}: 100.00 %"


def test_undefined_scores_are_dashes_and_gaps() -> None:
    matrix: Matrix = [[None, 0.0], [0.5, None], [None, 1.0]]
    nothing: Matrix = [[None, None]] * 3
    metrics: dict[str, Any] = dict.fromkeys(("average_accuracy", "learning_accuracy", "forgetting"))
    made = record(("a", "b"), matrix=matrix, valid_answers=nothing, **metrics)
    made.seconds.train[0] = None
    text = drawn(made)
    page = Page(text)
    assert page.cells() == [["–", "0.0"], ["50.0", "–"], ["–", "100.0"]]
    assert page.hovers[0] == "before any task, on a: not defined"
    assert len(page.maps) == 1
    assert "Share of valid answers" not in text  # nothing is shown of what no task has
    assert "seq_lora</span>: not defined for these tasks." in drawn(made, record(("a", "b"), method="am_lora"))
    assert "10.0 s<small>1 of 2 stages</small>" in text
    # Task b's score before any task stands alone, no line reaches it; the two others are rings.
    assert text.count('class="lone"') == 1
    assert "A filled mark stands alone" in text
    # Undefined between 0 before and 100 after b: the pen is lifted, no line joins the two.
    assert 'd="M0,100M100,0"' in text


def test_a_stream_without_any_score_is_drawn() -> None:
    page = Page(drawn(record(("a",), matrix=[[None], [None]])))
    assert page.cells() == [["–"], ["–"]]
    assert "No score is defined." in page.text


def test_odd_names_are_text_and_never_markup() -> None:
    made = record(ODD, method=ODD[0], title=ODD[1], stream=ODD[1], parameters={ODD[1]: ODD[0]}, protocol={ODD[1]: ODD})
    for text in (drawn(made), drawn(made, made.model_copy(update={"method": ODD[1]}))):
        page = Page(text)
        assert "script" not in page.tags
        assert "b" not in page.tags
        assert html.escape(ODD[1]) in text
        assert {name for name in ODD if any(name in piece for piece in page.text)} == set(ODD)
        assert "R[i][j] < 1 & so on" in page.text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    matrix: Matrix = [[score(stage, index) for index in range(4)] for stage in range(5)]
    true: dict[str, Any] = {**run_metrics(matrix, [0] * 4), "protocol_hash": hash_of(PROTOCOL)}
    made = record(**true)
    made.write(tmp_path / "results.json")
    definitions = dict(reversed(made.definitions.items()))
    shuffled = record(**true, protocol=dict(reversed(PROTOCOL.items())), definitions=definitions)
    again = read_record(tmp_path / "results.json")
    assert drawn(made) == drawn(again) == drawn(shuffled)
    write_report(tmp_path / "report.html", [RunView(made)])
    assert (tmp_path / "report.html").read_text() == drawn(made)


def test_the_page_loads_nothing() -> None:
    text = drawn(record(), record(method="am_lora"))
    page = Page(text)
    assert page.loads == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?://|url\(|@import|xmlns", text)
    assert len(page.ids) == len(set(page.ids))
    assert page.scopeless == 0


def test_metrics_and_cost_are_printed() -> None:
    text = drawn(record())
    for expected in ("76.5", "87.7", "11.1", "−11.1", "+2.2", "12,345", "67,890", "40.0 s", "5.0 s", "3.0 GiB"):
        assert expected in text
    assert "mean of the last row" in text
    assert "a" * 64 in text


def test_several_runs_stand_beside_each_other() -> None:
    text = drawn(record(), record(method="am_lora", average_accuracy=0.9), record(method="o_lora"))
    page = Page(text)
    assert "seq_lora, am_lora and o_lora side by side" in text
    assert "4 methods side by side" in drawn(*(record(method=method) for method in "abcd"))
    assert "2 runs side by side" in drawn(record(), record(seed=2))
    assert len(page.maps) == 6
    assert text.count('class="small"') == len(FOUR)
    assert "not comparable" not in text
    assert "90.0" in text


def test_runs_of_other_tasks_are_drawn_each_by_itself() -> None:
    text = drawn(record(), record(("a", "b"), method="am_lora", stream="other"))
    assert text.count('class="large"') == 2
    many = drawn(*(record(seed=seed) for seed in range(7)))
    assert many.count('class="large"') == 7


def test_different_protocols_warn_and_say_what_differs() -> None:
    other = record(method="am_lora", protocol=PROTOCOL | {"max_length": 256}, protocol_hash="b" * 64)
    text = drawn(record(), other)
    assert "These runs are not comparable" in text
    assert "<code>max_length</code>" in text
    assert "<code>labels</code>" not in text


def test_no_record_is_an_error() -> None:
    with pytest.raises(NacreError, match="at least one run"):
        render([])


def test_runs_get_names_that_tell_them_apart() -> None:
    assert run_names([record(), record(method="am_lora")]) == ["seq_lora", "am_lora"]
    assert run_names([record(), record(seed=2)]) == ["seq_lora, seed 1", "seq_lora, seed 2"]
    assert run_names([record(), record(parameters={"rank": 4})])[1] == "seq_lora, rank=4"
    assert run_names([record(), record()]) == ["seq_lora (1)", "seq_lora (2)"]


def test_differing_keys_are_dotted_paths() -> None:
    assert differing_keys([{"a": {"b": 1, "c": [1]}}, {"a": {"c": [1], "b": 2}, "d": None}]) == ["a.b", "d"]


def test_numbers_as_text() -> None:
    assert [percent(value) for value in (None, 0.0, 1.0, 0.785, -0.00001, -0.02)] == [
        *("–", "0.0", "100.0", "78.5", "0.0", "−2.0")
    ]
    assert [points(value) for value in (None, 0.0, -0.00001, 0.031, -0.031)] == ["–", "0.0", "0.0", "+3.1", "−3.1"]
    assert [seconds(value) for value in (0.004, 0.999, 59.94, 59.96, 3599.7)] == [
        *("0.00 s", "1.0 s", "59.9 s", "1 min 00 s", "1 h 00 min")
    ]
    assert (total_seconds([]).text, total_seconds([None]).text, size(2**20)) == ("–", "–", "1.0 MiB")
    assert breakable("<a+b>") == "&lt;a+<wbr>b&gt;"
    assert (shorten("short", 5), shorten("longer", 5), shorten("名前です", 5)) == ("short", "long…", "名前…")


@pytest.mark.parametrize(("scheme", "ramp"), list(itertools.product(("light", "dark"), ("score", "valid"))))
def test_every_cell_color_can_be_read(scheme: str, ramp: str) -> None:
    shades = [palette.color(scheme, ramp, step) for step in range(palette.LEVELS + 1)]
    assert min(palette.contrast(palette.text_color(shade), shade) for shade in shades) >= 4.5
    # Steps keep their order for everyone who sees lightness only.
    against_black = [palette.contrast("#000000", shade) for shade in shades]
    assert against_black == sorted(against_black, reverse=scheme == "light")
    assert [palette.level(value) for value in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 10, 20, 20]


# What a reader wants to know first.

WHOLE: dict[str, Any] = {
    "optim": {"learning_rate": 0.002, "epochs": [1, 2], "batch_size": 16},
    "environment": {"device": "a fine GPU", "packages": {"nacre": "1.2", "torch": "2.9", "numpy": None}},
    "finished": "2026-11-29T03:04:05+00:00",
}


def test_the_head_says_how_it_was_trained_with_what_and_when() -> None:
    text = one_line(" ".join(Page(drawn(record(**WHOLE))).text))
    head = text[: text.index("Summary")]
    for fact in (
        *("Learning rate 0.002", "Epochs 1, 2", "Batch size 16", "Device a fine GPU", "Software nacre 1.2, torch 2.9"),
        *("Finished 2026-11-29 03:04:05", "Seed 1"),
    ):
        assert fact in head
    # Records from before they were kept: nothing is said.
    assert not re.search("Learning rate|Device|Software|Finished", " ".join(Page(drawn(record())).text))
    # Runs that differ: only what they share.
    both = one_line(
        " ".join(Page(drawn(record(**WHOLE), record(**WHOLE | {"finished": "2026-11-30", "seed": 2}))).text)
    )
    assert "Device a fine GPU" in both
    assert "Finished" not in both


def matrix_of(*last: float | None, learned: float | None = 0.9) -> Matrix:
    """Two or more tasks, each learned with the same score; the last row as given."""
    count = len(last)
    middle: Matrix = [[learned if task < stage else 0.0 for task in range(count)] for stage in range(count)]
    return [*middle, list(last)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"matrix": matrix_of(0.1, 0.4, 0.9), "forgetting": 0.65, "average_accuracy": 0.467},
            "ends with an average of 46.7 % over 3 tasks and forgot 65.0 points on average; most of 't0', which fell "
            "from 90.0 to 10.0 %.",
        ),
        (
            {"matrix": matrix_of(0.9, 0.95, 0.9), "forgetting": -0.025, "average_accuracy": 0.917},
            "ends with an average of 91.7 % over 3 tasks and forgot nothing: no task is worse at the end than when it "
            "was learned.",
        ),
        (
            {"matrix": matrix_of(0.8, 1.0, 0.9), "forgetting": 0.0, "average_accuracy": 0.9},
            "ends with an average of 90.0 % over 3 tasks and lost nothing on average; it forgot most of 't0', which "
            "fell from 90.0 to 80.0 %.",
        ),
        (
            {"matrix": matrix_of(0.8, 1.0, learned=None), "forgetting": None, "average_accuracy": 0.9, "at_once": True},
            "ends with an average of 90.0 % over 2 tasks; it saw all tasks at once, so it has nothing to forget.",
        ),
        (
            {"matrix": matrix_of(0.8, 1.0, learned=None), "forgetting": None, "average_accuracy": 0.9},
            "ends with an average of 90.0 % over 2 tasks; forgetting was not measured.",
        ),
        (
            {"matrix": matrix_of(0.8), "forgetting": None, "average_accuracy": 0.8},
            "ends with an average of 80.0 % over its one task.",
        ),
        (
            {"matrix": matrix_of(None, 0.8, learned=None), "forgetting": None, "average_accuracy": None},
            "has no average, because not every task was measured at the end; forgetting was not measured.",
        ),
    ],
)
def test_the_page_begins_with_its_result(changes: dict[str, Any], sentence: str) -> None:
    tasks = tuple(f"t{number}" for number in range(len(changes["matrix"][0])))
    made = record(tasks, **{key: value for key, value in changes.items() if key != "at_once"})
    made.seconds.train[0] = None if "at_once" in changes else 1.0
    assert outcome(made) == f"seq_lora {sentence}"
    assert f'<p class="result">{escape(outcome(made))}</p>' in drawn(made)


def test_runs_beside_each_other_are_ranked_only_where_they_may_be() -> None:
    best, worst = record(method="a", average_accuracy=0.9), record(method="b", average_accuracy=0.4)
    sentence = "a has the highest average at the end, 90.0 %, and b the lowest, 40.0 %."
    assert sentence in drawn(best, worst)
    assert sentence in drawn(worst, best)
    other = worst.model_copy(update={"protocol_hash": "b" * 64})
    assert 'class="result"' not in drawn(best, other)
    assert 'class="result"' not in drawn(best, best.model_copy(update={"seed": 2}))


def test_metrics_are_explained_before_their_formulas() -> None:
    text = drawn(record(definitions=DEFINITIONS))
    for metric in RUN_METRICS:
        assert text.index(html.escape(metric.meaning).replace("&#x27;", "&#39;")) < text.index(
            html.escape(metric.definition)
        )
        assert not re.search(r"[\[\]<>=]", metric.meaning)


def test_answers_are_shown_right_and_wrong_and_shortened() -> None:
    wrong = Answered("<i>2 + 2</i> " + "so " * 500, "five", "four", 0.0)
    samples = TaskSamples(
        "topics", worst=(wrong, Answered("?", "", "yes", 0.0)), best=(Answered(None, "yes", "yes", 1.0),)
    )
    text = render([RunView(record(), samples=(samples,))])
    assert "&lt;i&gt;2 + 2&lt;/i&gt; so so" in text
    assert "so so…</td>" in text
    assert "so " * 200 not in text
    page = one_line(" ".join(Page(text).text))
    assert "Wrong" in page[page.index("Answers at the end") :]
    assert "four five 0.0" in page
    assert "? yes nothing 0.0" in page
    assert "– yes yes 100.0" in page
    assert "Answers at the end" not in render([RunView(record())])


def test_the_loss_is_drawn_over_the_steps_of_all_tasks() -> None:
    curves = (LossCurve("topics", 20, ((1, 3.0), (10, 2.0), (20, 1.0))), LossCurve("reviews", 5, ((5, 0.5),)))
    chart = loss_chart(curves)
    assert chart is not None
    (line,) = chart.lines
    (first, second) = line.firm
    assert [x for x, _ in first] == [4.0, 40.0, 80.0]
    assert [x for x, _ in second] == [100.0]
    heights = [y for _, y in (*first, *second)]
    top = float(chart.levels[-1][1])
    assert heights == pytest.approx([100 - 100 * loss / top for loss in (3.0, 2.0, 1.0, 0.5)])
    assert [(tick.x, tick.text, tick.name) for tick in chart.ticks] == [
        *((0.0, "0", "topics"), (80.0, "20", "reviews"), (100.0, "25", "")),
    ]
    assert [point.mark for point in line.points] == ["lone"]  # one reading makes no line
    assert "topics: loss 3 at step 1, 1 at step 20" in chart.description
    text = render([RunView(record(), losses=curves)])
    assert "Loss over the steps of all tasks" in text
    assert loss_chart(()) is None
    assert 'id="loss"' not in drawn(record())


def test_no_model_folder_is_printed_whole() -> None:
    text = drawn(record(model="/home/somebody/models/minilm"), record(model="/home/somebody/models/t5-small"))
    assert "/home/somebody" not in text
    assert "seq_lora, minilm" in text
    same = run_names([record(model="/a/t5"), record(model="/b/t5")])
    assert same == ["seq_lora, /a/t5", "seq_lora, /b/t5"]


@pytest.mark.parametrize(
    "records",
    [
        [record(("only",))],
        [record()],
        [record(FIFTEEN)],
        [record(ODD, title="y" * 300, protocol={"z" * 200: {"w" * 300: list(range(500))}})],
        [record(), record(method="am_lora"), record(method="m" * 120, protocol_hash="b" * 64)],
        [record(FIFTEEN), record(FIFTEEN, seed=2)],
    ],
    ids=("1", "4", "15", "odd", "three", "two15"),
)
def test_a_browser_opens_the_page_offline(browser: Any, tmp_path: Path, records: list[RunRecord]) -> None:
    write_report(tmp_path / "report.html", [RunView(one) for one in records])
    address = (tmp_path / "report.html").as_uri()
    context = browser.new_context()
    context.set_offline(True)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    for width in (1200, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        shown, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert shown <= room, f"{shown} pixels in a window of {room}"
    cells = sum((len(one.tasks) + 1) * len(one.tasks) for one in records)
    assert page.locator("table.heat.score td.cell").count() == cells
    assert page.locator("table.heat.valid td.cell").count() == cells
    # The dark scheme is applied, not only written down.
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    context.close()
    assert complaints == []
    assert requests == [address]


def test_what_only_some_runs_have_is_shown_where_it_is_there() -> None:
    plain = Page(drawn(record()))
    for words in ("Perplexity", "End tasks", "tokens/s"):
        assert words not in " ".join(plain.text)
    after = {"after": "topics", "accuracy": 0.81, "f1": 0.7, "macro_f1": 0.69, "macro_f1_deviation": 0.0321}
    average = EndAverage(**after, accuracy_deviation=None, f1_deviation=0.012)
    run = record(
        perplexity=[[None] * 4, [12.3456] * 4, [234.5678, None, None, None], [3.0] * 4, [1e5] * 4],
        end_tasks=EndTaskRecord(results=[], averages=[average]),
        training=TokenCounts(tokens=[900] * 4, positions=[1200] * 4, padding_share=0.25),
        seconds=Seconds(train=[10.0] * 4, evaluate=[1.0] * 5, tokens_per_second=1234.5),
        definitions={"perplexity": "exp of something"},
    )
    for shown in (Page(drawn(run)), Page(drawn(run, record(method="other")))):
        text = " ".join(" ".join(shown.text).split())
        for words in ("exp of something.", "12.35", "234.6", "1e+05", "70.0 ± 1.2", "69.0 ± 3.2", "81.0"):
            assert words in text
        assert "1,234 tokens/s, 25.0 % padding" in text


def test_a_browser_breaks_no_word(browser: Any, tmp_path: Path) -> None:
    """Names that a person meets: of settings, methods with modifiers, tasks."""
    settings = {"cross_attention_only": {"selector_input_kind": "complaint"}, "max_new_tokens": 50, "dataset_name": "x"}
    tasks = ("classification", "summarization", "conversations")
    several = [
        record(tasks, method=name, parameters=settings, protocol={"tokenizer": settings}, **WHOLE)
        for name in ("seq_lora+migu", "inc_lora+orthogonal_gradient", "am_lora")
    ]
    samples = TaskSamples(tasks[0], (Answered("Was it unconstitutional?", "complaint", "appointment", 0.0),), ())
    curves = (LossCurve(tasks[0], 20, ((1, 3.0), (20, 1.0))),)
    pages = [[RunView(several[0], losses=curves, samples=(samples,))], [RunView(one) for one in several]]
    for views in pages:
        write_report(tmp_path / "report.html", views)
        page = browser.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        for width in (1280, 768, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(BROKEN) == [], width
            assert page.evaluate(SMALLEST) >= 12
            shown, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert shown <= room
        page.close()


def test_few_columns_keep_their_headings_level(browser: Any, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", [RunView(record(("summarize_news", "classify_mails")))])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    heading = page.locator("table.heat.score th[scope=col] span").first
    assert heading.evaluate("one => getComputedStyle(one).writingMode") == "horizontal-tb"
    assert heading.evaluate("one => one.scrollWidth <= one.clientWidth")  # whole
    page.close()
