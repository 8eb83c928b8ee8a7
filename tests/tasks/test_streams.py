"""The published orders, against the lists of the papers written out here."""

from __future__ import annotations

import pytest

from nacre.errors import RecipeError
from nacre.tasks.demo import demo_tasks
from nacre.tasks.published.catalog import CATALOG, canonical
from nacre.tasks.published.streams import STREAMS, get_stream, stream_names

PAPERS = {
    "order1": "dbpedia, amazon, yahoo, ag",
    "order2": "dbpedia, amazon, ag, yahoo",
    "order3": "yahoo, amazon, ag, dbpedia",
    "order4": "MNLI, CB, WiC, COPA, QQP, BoolQ, RTE, IMDB, yelp, amazon, SST-2, dbpedia, ag, MultiRC, yahoo",
    "order5": "MultiRC, BoolQ, WiC, MNLI, CB, COPA, QQP, RTE, IMDB, SST-2, dbpedia, ag, yelp, amazon, yahoo",
    "order6": "yelp, amazon, MNLI, CB, COPA, QQP, RTE, IMDB, SST-2, dbpedia, ag, yahoo, MultiRC, BoolQ, WiC",
}


@pytest.mark.parametrize("order", PAPERS)
def test_order_is_the_papers(order):
    stream = get_stream(order)
    assert stream.tasks == tuple(canonical(name) for name in PAPERS[order].split(", "))
    assert stream.name == order
    assert stream.title
    assert "AM-LoRA Table 4" in stream.source


def test_long_orders_hold_every_task_once():
    names = sorted(task.name for task in CATALOG)
    for order in ("order4", "order5", "order6"):
        assert sorted(get_stream(order).tasks) == names


def test_demo_has_the_demo_tasks():
    assert get_stream("demo").tasks == tuple(task.name for task in demo_tasks())


def test_names():
    assert stream_names() == tuple(STREAMS)
    assert {*PAPERS, "trace", "superni1", "superni2", "instruction", "demo"} <= set(stream_names())


def test_trace_is_in_its_released_order():
    names = "C-STANCE FOMC MeetingBank Py150 ScienceQA NumGLUE-cm NumGLUE-ds 20Minuten"
    assert get_stream("trace").tasks == tuple(names.split())


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("superni1", "1572, 363, 1290, 181, 002, 1510, 639, 1729, 073, 1590, 748, 511, 591, 1687, 875"),
        ("superni2", "748, 073, 1590, 639, 1572, 1687, 591, 363, 1510, 1729, 181, 511, 002, 1290, 875"),
    ],
)
def test_superni_is_in_the_orders_of_sapt(name, numbers):
    tasks = get_stream(name).tasks
    assert [task.partition("_")[0] for task in tasks] == [f"task{number}" for number in numbers.split(", ")]
    assert len(set(tasks)) == 15


def test_unknown_stream_names_the_near_ones():
    with pytest.raises(RecipeError, match=r"There is no stream 'ordre1'\. Did you mean order1 .*Known: .*order1"):
        get_stream("ordre1")
