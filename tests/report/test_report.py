"""The report's page: its numbers are the record's, its text is escaped, and a browser opens it without a network."""

from __future__ import annotations

import html
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.page import Page
from nacre.errors import NacreError
from nacre.evaluation.matrix import run_metrics
from nacre.files import hash_of
from nacre.records.end_tasks import EndAverage, EndTaskRecord
from nacre.records.plain import differing_keys
from nacre.records.run import Matrix, RunRecord, Seconds, TokenCounts
from nacre.report import palette, render, write_report
from nacre.report.names import run_names, shorten
from nacre.report.numbers import percent, points, seconds, size, total_seconds

FOUR = ("topics", "reviews", "questions", "entities")
FIFTEEN = tuple(f"task-{number}" for number in range(1, 16))
ODD = ("<b>&\"'", "</style><script>alert(1)</script>", "x" * 200, "名前の長い課題 – naïve café", "{{ 1 + 1 }} {% if %}")
PROTOCOL = {
    "model": {"name": "demo", "sha256": "9f" * 32},
    "max_length": 512,
    "labels": ["a", "b"],
    "rows": [1, 2] * 99,
}


def score(stage: int, index: int) -> float:
    """A score that is another one in each cell and needs rounding."""
    return (0.91 - 0.0123 * (stage - index) if stage > index else 0.07 + 0.0031 * stage) + 0.00077 * index


def record(tasks: tuple[str, ...] = FOUR, *, matrix: Matrix | None = None, **changes: Any) -> RunRecord:
    """A finished run over the tasks; ``changes`` replaces any field."""
    count = len(tasks)
    filled: Matrix = [[score(stage, index) for index in range(count)] for stage in range(count + 1)]
    fields: dict[str, Any] = {
        "method": "seq_lora",
        "title": "Sequential LoRA",
        "parameters": {"rank": 8, "roles": ["query", "value"]},
        "stream": "demo",
        "tasks": list(tasks),
        "model": "demo",
        "seed": 1,
        "metric": "exact_match",
        "matrix": matrix or filled,
        "valid_answers": [[1.0] * count for _ in range(count + 1)],
        "average_accuracy": 0.7654,
        "learning_accuracy": 0.8767,
        "pooled_accuracy": None,
        "forgetting": 0.1111,
        "backward_transfer": -0.1111,
        "forward_transfer": 0.0222,
        "trainable_parameters": 12345,
        "trainable_parameters_per_task": [12345] * count,
        "stored_parameters": 67890,
        "seconds": Seconds(train=[10.0] * count, evaluate=[1.0] * (count + 1)),
        "peak_rss_bytes": 3 * 2**30,
        "protocol": PROTOCOL,
        "protocol_hash": "a" * 64,
        "definitions": {"average_accuracy": "mean of the last row", "odd": "R[i][j] < 1 & so on"},
    }
    return RunRecord(**(fields | changes))


@pytest.mark.parametrize("tasks", [("only",), FOUR, FIFTEEN, ODD], ids=("1", "4", "15", "odd"))
def test_cells_hold_the_numbers_of_the_record(tasks: tuple[str, ...]) -> None:
    made = record(tasks)
    page = Page(render([made]))
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
    text = render([made])
    page = Page(text)
    assert page.cells() == [["–", "0.0"], ["50.0", "–"], ["–", "100.0"]]
    assert page.hovers[0] == "before any task, on a: not defined"
    assert len(page.maps) == 1
    assert "Not defined for these tasks." in text
    assert "10.0 s<small>1 of 2 stages</small>" in text
    # Task b's score before any task stands alone, no line reaches it; the two others are rings.
    assert text.count('class="lone"') == 1
    assert "A filled mark stands alone" in text
    # Undefined between 0 before and 100 after b: the pen is lifted, no line joins the two.
    assert 'd="M0,100M100,0"' in text


def test_a_stream_without_any_score_is_drawn() -> None:
    page = Page(render([record(("a",), matrix=[[None], [None]])]))
    assert page.cells() == [["–"], ["–"]]
    assert "No score is defined." in page.text


def test_odd_names_are_text_and_never_markup() -> None:
    made = record(ODD, method=ODD[0], title=ODD[1], stream=ODD[1], parameters={ODD[1]: ODD[0]}, protocol={ODD[1]: ODD})
    for text in (render([made]), render([made, made.model_copy(update={"method": ODD[1]})])):
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
    assert render([made]) == render([made]) == render([RunRecord.read(tmp_path / "results.json")]) == render([shuffled])
    write_report(tmp_path / "report.html", [made])
    assert (tmp_path / "report.html").read_text() == render([made])


def test_the_page_loads_nothing() -> None:
    text = render([record(), record(method="am_lora")])
    page = Page(text)
    assert page.loads == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?://|url\(|@import|xmlns", text)
    assert len(page.ids) == len(set(page.ids))
    assert page.scopeless == 0


def test_metrics_and_cost_are_printed() -> None:
    text = render([record()])
    for expected in ("76.5", "87.7", "11.1", "−11.1", "+2.2", "12,345", "67,890", "40.0 s", "5.0 s", "3.0 GiB"):
        assert expected in text
    assert "mean of the last row" in text
    assert "a" * 64 in text


def test_several_runs_stand_beside_each_other() -> None:
    text = render([record(), record(method="am_lora", average_accuracy=0.9), record(method="o_lora+migu")])
    page = Page(text)
    assert "3 methods side by side" in text
    assert len(page.maps) == 6
    assert text.count('class="small"') == len(FOUR)
    assert "not comparable" not in text
    assert "90.0" in text


def test_runs_of_other_tasks_are_drawn_each_by_itself() -> None:
    text = render([record(), record(("a", "b"), method="am_lora", stream="other")])
    assert text.count('class="large"') == 2
    many = render([record(seed=seed) for seed in range(7)])
    assert many.count('class="large"') == 7


def test_different_protocols_warn_and_say_what_differs() -> None:
    other = record(method="am_lora", protocol=PROTOCOL | {"max_length": 256}, protocol_hash="b" * 64)
    text = render([record(), other])
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
    assert (shorten("short", 5), shorten("longer", 5), shorten("名前です", 5)) == ("short", "long…", "名前…")


@pytest.mark.parametrize(("scheme", "ramp"), list(itertools.product(("light", "dark"), ("score", "valid"))))
def test_every_cell_color_can_be_read(scheme: str, ramp: str) -> None:
    shades = [palette.color(scheme, ramp, step) for step in range(palette.LEVELS + 1)]
    assert min(palette.contrast(palette.text_color(shade), shade) for shade in shades) >= 4.5
    # Steps keep their order for everyone who sees lightness only.
    against_black = [palette.contrast("#000000", shade) for shade in shades]
    assert against_black == sorted(against_black, reverse=scheme == "light")
    assert [palette.level(value) for value in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 10, 20, 20]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    quiet = ("background-networking", "component-update", "sync")
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-quic",
        *(f"--disable-{one}" for one in quiet),
    ]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


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
    write_report(tmp_path / "report.html", records)
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
    plain = Page(render([record()]))
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
    for shown in (Page(render([run])), Page(render([run, record(method="other")]))):
        text = " ".join(" ".join(shown.text).split())
        for words in ("exp of something.", "12.35", "234.6", "1e+05", "70.0 ± 1.2", "69.0 ± 3.2", "81.0"):
            assert words in text
        assert "1,234 tokens/s, 25.0 % padding" in text
