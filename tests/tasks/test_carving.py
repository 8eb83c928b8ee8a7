"""Validation rows held out of training rows: never a leak, always the same, one of every label."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.errors import DataError
from nacre.tasks.reading.validation_split import hold_out
from nacre.tasks.task import Row

rows = st.builds(Row, text=st.text("abc ", min_size=1, max_size=4), target=st.sampled_from(["x", "y", "z"]))


def numbered(count: int, labels: str = "xy") -> list[Row]:
    return [Row(f"text {number}", labels[number % len(labels)]) for number in range(count)]


def key(row: Row) -> str:
    return " ".join(row.text.split())


@given(
    train=st.lists(rows, max_size=60), test=st.lists(rows, max_size=5), seed=st.integers(0, 9), by_label=st.booleans()
)
def test_carving_keeps_its_promises(train, test, seed, by_label):
    try:
        kept, held = hold_out(train, test, name="t", by_label=by_label, seed=seed)
    except DataError:
        kept, held = (), ()
    counts, tested = Counter(map(key, train)), set(map(key, test))
    free = [row for row in train if counts[key(row)] == 1 and key(row) not in tested]
    sizes = Counter(row.target if by_label else "" for row in train)
    givers = {row.target if by_label else "" for row in free if sizes[row.target if by_label else ""] > 1}
    if not held:
        assert not givers
        return
    assert Counter(kept) + Counter(held) == Counter(train)
    assert set(map(key, held)).isdisjoint(map(key, kept))
    assert set(map(key, held)) <= set(map(key, free))
    assert {row.target if by_label else "" for row in held} == givers
    assert len(held) <= max(len(train) // 10, len(givers), 1)
    if by_label:
        assert {row.target for row in kept} == {row.target for row in train}
    assert hold_out(train, test, name="t", by_label=by_label, seed=seed) == (kept, held)


def test_a_tenth_in_proportion_and_in_order():
    train = [Row(f"text {number}", "rare" if number % 10 == 0 else "common") for number in range(200)]
    kept, held = hold_out(train, [], name="t", by_label=True, seed=0)
    assert Counter(row.target for row in held) == {"common": 18, "rare": 2}
    assert list(kept) == [row for row in train if row not in held]
    assert list(held) == [row for row in train if row in held]


def test_never_more_than_a_thousand():
    assert len(hold_out(numbered(12_000), [], name="t", by_label=True, seed=0)[1]) == 1000
    every_row_two = [Row(f"text {number}", str(number // 2)) for number in range(2400)]
    assert len(hold_out(every_row_two, [], name="t", by_label=True, seed=0)[1]) == 1000


def test_every_label_even_beyond_a_tenth():
    held = hold_out(numbered(20, "abcdefghij"), [], name="t", by_label=True, seed=0)[1]
    assert sorted(row.target for row in held) == list("abcdefghij")


def test_seed_and_name_choose_the_rows():
    train = numbered(100)
    first = hold_out(train, [], name="t", by_label=True, seed=0)
    assert first == hold_out(train, [], name="t", by_label=True, seed=0)
    assert first != hold_out(train, [], name="t", by_label=True, seed=1)
    assert first != hold_out(train, [], name="u", by_label=True, seed=0)


def test_the_choice_is_the_same_on_every_machine():
    held = hold_out(numbered(40), [], name="t", by_label=True, seed=0)[1]
    assert [row.text for row in held] == ["text 22", "text 33", "text 37", "text 38"]


def test_repeated_and_tested_texts_stay():
    train = [Row("again", "x"), Row(" again ", "y"), Row("in test", "x"), Row("free", "x"), Row("last of y", "y")]
    held = hold_out(train, [Row("in  test", "x")], name="t", by_label=False, seed=0)[1]
    assert held in [(Row("free", "x"),), (Row("last of y", "y"),)]


@pytest.mark.parametrize("train", [[Row("one", "x")], [Row("same", "x")] * 20, [Row("a", "x"), Row("b", "y")]])
def test_nothing_to_hold_out_is_said(train):
    with pytest.raises(DataError, match=rf"Task 't': there is no validation split, and none of the {len(train)} "):
        hold_out(train, [], name="t", by_label=True, seed=0)
