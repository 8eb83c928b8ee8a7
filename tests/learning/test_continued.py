"""What is new since an earlier state, and the whole put together again: equal to the bit, and in kinds of values."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nacre.learning.continued import joined, new_items, new_rows, prints_of, with_items

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, 0.5])
    | st.sampled_from(["", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "$tensor"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Few forms and few values, so that two of them often begin alike."""
    shape = draw(st.sampled_from([(), (0,), (3,), (0, 2), (1, 2), (2, 2), (4, 2), (2, 0), (3, 2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1)))
    values = torch.randint(0, 2, (64,), generator=generator)[: torch.Size(shape).numel()].reshape(shape)
    return values.to(draw(st.sampled_from(DTYPES)))


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Tensor]]:
    """States one after the other: each keeps, lengthens, changes or drops tensors of the one before."""
    found: list[dict[str, Tensor]] = [draw(st.dictionaries(st.sampled_from("abc"), tensors(), max_size=3))]
    for _ in range(draw(st.integers(1, 4))):
        state = {}
        for name, tensor in found[-1].items():
            kind = draw(st.sampled_from(["keep", "lengthen", "change", "drop"]))
            if kind == "lengthen" and tensor.dim():
                tensor = torch.cat([tensor, torch.ones_like(tensor[:2])])
            elif kind == "change":
                tensor = draw(tensors())
            if kind != "drop":
                state[name] = tensor
        found.append(state | draw(st.dictionaries(st.sampled_from("cd"), tensors(), max_size=1)))
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@given(histories())
def test_every_state_is_put_together_again(states: list[dict[str, Tensor]]) -> None:
    before: dict[str, Any] = {}
    pieces: dict[str, list[tuple[Tensor, int]]] = {}
    for state in states:
        new = new_rows(state, before)
        for name in new.dropped:
            del pieces[name]
        for name, tensor in new.tensors.items():
            earlier = pieces[name] if name in new.after else []
            pieces[name] = [*earlier, (tensor, new.after.get(name, 0))]
        before = new.prints
        assert before == prints_of(state)
        whole = {name: joined(*map(list, zip(*each, strict=True))) for name, each in pieces.items()}
        assert whole.keys() == state.keys()
        assert all(same(whole[name], tensor) for name, tensor in state.items())


@given(tensors(), st.integers(1, 3))
def test_rows_that_are_there_are_not_kept_again(tensor: Tensor, more: int) -> None:
    if tensor.dim() == 0 or len(tensor) == 0:
        return
    longer = torch.cat([tensor, torch.ones_like(tensor[:1]).expand(more, *tensor.shape[1:])])
    new = new_rows({"a": longer, "b": tensor}, prints_of({"a": tensor, "b": tensor, "c": tensor}))
    assert new.after == {"a": len(tensor)}
    assert new.tensors.keys() == {"a"}
    assert len(new.tensors["a"]) == more
    assert new.dropped == ["c"]


def test_one_bit_makes_rows_new() -> None:
    tensor = torch.arange(6.0).reshape(3, 2)
    before = prints_of({"a": tensor})
    longer = torch.cat([tensor, tensor])
    longer[1, 1] = torch.nextafter(longer[1, 1], torch.tensor(9.0))
    assert same(new_rows({"a": longer}, before).tensors["a"], longer)
    assert same(new_rows({"a": tensor.bfloat16()}, before).tensors["a"], tensor.bfloat16())
    negative = torch.tensor([[-0.0, 1.0]])
    assert new_rows({"a": negative}, prints_of({"a": negative.abs()})).tensors, "0.0 and -0.0 are two values"


@pytest.mark.parametrize("after", [[0, 3], [1, 2], [0, 1]])
def test_pieces_that_do_not_meet_are_refused(after: list[int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        joined([torch.zeros(2, 2), torch.zeros(1, 2)], after)
    with pytest.raises(ValueError, match="form"):
        joined([torch.zeros(2, 2), torch.zeros(1, 3)], [0, 2])


@given(PLAIN, PLAIN, st.booleans())
def test_every_value_is_put_together_again(before: Any, value: Any, grows: bool) -> None:
    if grows and isinstance(before, list):
        value = [*before, value]
    elif grows and isinstance(before, dict):
        value = {**before, "c": value}
    rest, grown = json.loads(json.dumps(new_items(value, before)))  # as a file gives it
    assert json.dumps(with_items(rest, grown, before), sort_keys=True) == json.dumps(value, sort_keys=True)


def test_items_that_are_there_are_not_kept_again() -> None:
    before = {"tasks": ["a"], "kept": {"rows": [[1], [2]]}, "forms": {"a": {"x": 1}}, "slots": 1}
    value = {"tasks": ["a", "b"], "kept": {"rows": [[1], [2], [3]]}, "forms": {"a": {"x": 1}, "b": {}}, "slots": 2}
    rest, grown = new_items(value, before)
    assert rest == {"tasks": ["b"], "kept": {"rows": [[3]]}, "forms": {"b": {}}, "slots": 2}
    assert grown == {"tasks": 1, "kept": {"rows": 2}, "forms": True}


@pytest.mark.parametrize(
    ("value", "grown", "before"),
    [([1], 2, [0]), ([1], 1, None), ({"a": 1}, True, {"a": 0}), ({}, True, []), ({}, {"a": 1}, {}), ("a", 1, "a")],
)
def test_values_that_do_not_belong_together_are_refused(value: Any, grown: Any, before: Any) -> None:
    with pytest.raises(ValueError, match="does not continue"):
        with_items(value, grown, before)
