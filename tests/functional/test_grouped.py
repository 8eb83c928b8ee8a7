"""Rows with matrices of their own: every body against one row at a time, and what no body may touch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.functional.bottleneck import slot_bottlenecks
from nacre.functional.grouped import Body, Grouped, body_for, can_group, slot_updates
from nacre.functional.segments import NONE, Segments

D_IN, D_OUT, RANK, SCALE = 12, 8, 4, 1.5
NUMBERS = (3, 0, NONE, 3, 1, 0, 3, NONE, 1)
SLOTS = 5
HAS_GROUPED = hasattr(F, "grouped_mm")
BODIES: list[Body] = ["loop", "gathered", *(["grouped"] if HAS_GROUPED else [])]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def operands(between: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the host computes, what the maps read, and the factors of all slots."""
    shapes = (len(NUMBERS), *between, D_OUT), (len(NUMBERS), *between, D_IN), (SLOTS, RANK, D_IN), (SLOTS, RANK, D_OUT)
    h, x, down, up = (drawn(*shape, seed=number, dtype=dtype) for number, shape in enumerate(shapes))
    return h, x, down, up


def naive(h: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Row by row, in the type of what is given."""
    return torch.stack(
        [
            row if slot == NONE else row + SCALE * (seen @ down[slot].T) @ up[slot]
            for row, seen, slot in zip(h, x, NUMBERS, strict=True)
        ]
    )


def present(stack: Tensor, segments: Segments) -> Tensor:
    return torch.stack([stack[slot] for slot in segments.counts])


@pytest.mark.parametrize("between", [(), (6,), (2, 3)])
@pytest.mark.parametrize("body", ["loop", "gathered"])
def test_bodies_are_one_row_at_a_time(body: Body, between: tuple[int, ...]) -> None:
    """In float64, with the gradients of the host's output, the rows and the factors of every slot."""
    leaves = [tensor.requires_grad_() for tensor in operands(between, torch.float64)]
    expected = naive(*leaves)
    slope = drawn(*expected.shape, seed=9)
    expected_gradients = torch.autograd.grad(expected, leaves, slope)
    segments = Segments(NUMBERS)
    h, x, down, up = leaves
    found = slot_updates(h, x, present(down, segments), present(up, segments), segments, scale=SCALE, body=body)
    assert (found - expected).abs().max() <= 1e-13
    for ours, theirs in zip(torch.autograd.grad(found, leaves, slope), expected_gradients, strict=True):
        assert theirs.any()
        assert (ours - theirs).abs().max() <= 1e-12
    assert not expected_gradients[2][[2, 4]].any()  # no row has these slots


@pytest.mark.parametrize("body", ["loop", "gathered"])
def test_gradients_are_those_by_differences(body: Body) -> None:
    segments = Segments((1, NONE, 0, 1))
    leaves = [drawn(*shape, seed=number).requires_grad_() for number, shape in enumerate(
        ((4, 2, 3), (4, 2, 5), (2, 2, 5), (2, 2, 3)))]  # fmt: skip

    def function(*tensors: Tensor) -> Tensor:
        h, x, down, up = tensors
        return slot_updates(h, x, down, up, segments, scale=SCALE, body=body)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("between", [(), (6,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("body", BODIES)
def test_bodies_in_other_types(body: Body, dtype: torch.dtype, between: tuple[int, ...]) -> None:
    """Every body beside the same numbers in float64, with gradients; rows without a slot keep every bit."""
    eight = 2  # bfloat16 wants ranks that are multiples of 8
    h, x, down, up = operands(between, dtype)
    down, up = down.repeat(1, eight, 1).contiguous(), up.repeat(1, eight, 1).contiguous()
    x, down = torch.cat([x, x], dim=-1), torch.cat([down, down], dim=-1)[..., : 2 * D_IN]
    segments = Segments(NUMBERS)
    leaves = [tensor.detach().requires_grad_() for tensor in (h, x, present(down, segments), present(up, segments))]
    found = slot_updates(*leaves, segments, scale=SCALE, body=body)  # type: ignore[misc]
    twins = [tensor.detach().double().requires_grad_() for tensor in leaves]
    expected = slot_updates(*twins, segments, scale=SCALE, body="loop")  # type: ignore[misc]
    slope = drawn(*expected.shape, seed=9, dtype=dtype)
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    assert (found - expected).abs().max() <= bound * expected.abs().max()
    gradients = torch.autograd.grad(found, leaves, slope), torch.autograd.grad(expected, twins, slope.double())
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max()
    bare = [row for row, slot in enumerate(NUMBERS) if slot == NONE]
    assert torch.equal(found[bare].view(torch.uint8), h[bare].view(torch.uint8))


@pytest.mark.parametrize("body", BODIES)
def test_bodies_under_autocast(body: Body) -> None:
    """Products are bfloat16's, as everywhere under autocast; a row without a slot keeps its bits and its type."""
    h, x, down, up = operands((4,), torch.float32)
    x, down, up = torch.cat([x, x[..., :4]], -1), torch.cat([down, down], 1), torch.cat([up, up], 1)
    down = torch.cat([down, down[..., :4]], -1)
    segments = Segments(NUMBERS)
    factors = present(down, segments), present(up, segments)
    expected = slot_updates(h.double(), x.double(), *(each.double() for each in factors), segments, scale=SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = slot_updates(h, x, *factors, segments, scale=SCALE, body=body)
    assert found.dtype == torch.float32
    assert 1e-6 < (found - expected).abs().max() / expected.abs().max() <= 3e-2
    bare = [row for row, slot in enumerate(NUMBERS) if slot == NONE]
    assert torch.equal(found[bare], h[bare])


@pytest.mark.parametrize("body", BODIES)
def test_rows_keep_their_bits_where_those_of_a_slot_keep_their_order(body: Body) -> None:
    h, x, down, up = operands((3,), torch.float32)
    order = [7, 1, 4, 0, 5, 2, 8, 3, 6]  # of each slot, the first row still comes before the second
    assert [[row for row in order if NUMBERS[row] == slot] for slot in (0, 1, 3)] == [[1, 5], [4, 8], [0, 3, 6]]
    before, after = Segments(NUMBERS), Segments(tuple(NUMBERS[row] for row in order))
    factors = present(down, before), present(up, before)
    expected = slot_updates(h, x, *factors, before, scale=SCALE, body=body)[order]
    assert torch.equal(slot_updates(h[order], x[order], *factors, after, scale=SCALE, body=body), expected)


def test_one_slot_alone_is_the_plain_map_bit_for_bit() -> None:
    h, x, down, up = operands((3,), torch.float32)
    segments = Segments((2,) * len(NUMBERS))
    plain = h + SCALE * F.linear(F.linear(x, down[2]), up[2].T)
    assert torch.equal(slot_updates(h, x, down[2:3], up[2:3], segments, scale=SCALE, body="loop"), plain)
    assert torch.equal(slot_updates(h, x, down[2:3], up[2:3], segments, scale=SCALE), plain)


@pytest.mark.skipif(not HAS_GROUPED, reason="this version of torch has no grouped_mm")
def test_the_grouped_product_is_the_loop_bit_for_bit_on_a_cpu() -> None:
    h, x, down, up = operands((6,), torch.float32)
    segments = Segments(NUMBERS)
    results = []
    for body in ("loop", "grouped"):
        leaves = [tensor.clone().requires_grad_() for tensor in (h, x, present(down, segments), present(up, segments))]
        found = slot_updates(*leaves, segments, scale=SCALE, body=body)  # type: ignore[arg-type, misc]
        results.append([found, *torch.autograd.grad(found.sum(), leaves)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_without_any_slot_nothing_is_computed() -> None:
    h = drawn(2, D_OUT)
    nothing: Any = None
    assert slot_updates(h, nothing, nothing, nothing, Segments((NONE, NONE)), scale=1.0) is h


@pytest.mark.parametrize("body", BODIES)
def test_bottlenecks_of_the_rows_own_slots(body: Body) -> None:
    """Beside one row at a time; in float64 but where `grouped_mm` has no such type."""
    dtype = torch.float32 if body == "grouped" else torch.float64
    h, down, up = drawn(9, 3, 8, dtype=dtype), drawn(5, 4, 8, seed=1, dtype=dtype), drawn(5, 4, 8, seed=2, dtype=dtype)
    down_bias, up_bias = drawn(5, 4, seed=3, dtype=dtype), drawn(5, 8, seed=4, dtype=dtype)
    segments = Segments(NUMBERS)
    own = [present(stack, segments) for stack in (down, down_bias, up, up_bias)]
    found = slot_bottlenecks(h, h, *own, segments, "gelu", body)  # type: ignore[misc]
    expected = torch.stack(
        [
            row if slot == NONE else row + F.gelu(row @ down[slot].T + down_bias[slot]) @ up[slot] + up_bias[slot]
            for row, slot in zip(h, NUMBERS, strict=True)
        ]
    )
    assert (found - expected).abs().max() <= (1e-5 if body == "grouped" else 1e-13)


def test_segments_say_who_answers_what() -> None:
    segments = Segments(NUMBERS)
    assert segments.counts == {0: 2, 1: 2, 3: 3}
    assert not segments.is_all(3)
    assert Segments((3, 3)).is_all(3)
    assert not Segments((3, NONE)).is_all(3)
    assert segments.copied(1) is segments
    assert segments.copied(2).numbers[:6] == (3, 3, 0, 0, NONE, NONE)
    assert segments.copied(2) is segments.copied(2)
    assert segments.only(3).numbers == (3, NONE, NONE, 3, NONE, NONE, 3, NONE, NONE)
    assert segments.without(3).numbers == (NONE, 0, NONE, NONE, 1, 0, NONE, NONE, 1)
    device = torch.device("cpu")
    by_slot, as_they_stand = (segments.layout(device, are_sorted=are_sorted) for are_sorted in (True, False))
    assert by_slot.rows is not None
    assert by_slot.rows.tolist() == [1, 5, 4, 8, 0, 3, 6]
    assert by_slot.slots.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert by_slot.ends.tolist() == [2, 4, 7]
    assert as_they_stand.rows is not None
    assert as_they_stand.rows.tolist() == [0, 1, 3, 4, 5, 6, 8]
    assert as_they_stand.slots.tolist() == [2, 0, 2, 1, 0, 2, 1]
    assert Segments((0, 0, 2)).layout(device, are_sorted=True).rows is None
    assert Segments((2, 0)).layout(device, are_sorted=False).rows is None


def test_the_body_follows_types_and_sizes() -> None:
    """float64 and one slot alone: a loop; few rows or long ones of several slots: gathered; wide ranks: not copied."""
    few, many, one = Segments((0, 1) * 8), Segments(tuple(range(8)) * 2), Segments((1,) * 16)
    x = torch.zeros(16, 64, 32)
    grouped = "grouped" if HAS_GROUPED else "loop"
    assert body_for(x, one, (8, 32)) == "loop"
    assert body_for(x, many, (8, 32)) == "gathered"
    assert body_for(x.double(), many, (8, 32)) == "loop"
    assert body_for(x, few, (8, 32)) == grouped
    assert body_for(x, few, (6, 32)) == "loop"
    assert body_for(x[:, :1], Segments((0, 1, 2, 2) * 4), (64, 32)) == grouped


@pytest.mark.skipif(not HAS_GROUPED, reason="this version of torch has no grouped_mm")
def test_where_the_grouped_product_can_be_used() -> None:
    x = torch.zeros(2, 3, 16)
    assert can_group(x, (4, 8))
    assert not can_group(x, (6, 8))
    assert not can_group(x, (4, 6))
    assert not can_group(x[..., :10], (4, 8))
    assert not can_group(x.double(), (4, 8))
    assert not can_group(x.bfloat16(), (4, 8))
    assert can_group(x.bfloat16(), (8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_group(x, (4, 8))
        assert can_group(x, (8, 8))
        grouped = Grouped.by("grouped", Segments((1, 0)), x.device)
        assert grouped.linear(x, torch.ones(2, 8, 16)).dtype == torch.bfloat16
