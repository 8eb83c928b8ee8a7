"""Two processes that learn together end where one ends that learns alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contract import VARIANTS, held_method, refused, tensors_in
from helpers.together import BY_MICRO_BATCH, UNSTEADY, launched, needs_whole_host

NAMED = ("seq_ft+migu", "am_lora", "o_lora", "ewc", "der_pp", "epi")
"""In float32 two processes equal one, with a steady AdamW; rounding moves others further."""
LB_CL = ("lb_cl", "lb_cl-update", "lb_cl-literal", "b_cl", "nlnb_cl")


def both(
    tmp_path: Path,
    architecture: str,
    dtype: str,
    variants: Sequence[str],
    *,
    sharded: bool = False,
    steady: bool = False,
) -> list[dict[str, Any]]:
    """What one process has learned alone, and what each of two has, each with a part of the host if it is sharded."""
    for count in (1, 2):
        words = [*(["--sharded"] if sharded and count > 1 else []), *(["--steady"] if steady else []), *variants]
        done = launched(
            count, ["-m", "helpers.together", str(tmp_path / f"{count}"), architecture, dtype, *words], 1800
        )
        assert done.returncode == 0, done.stderr[-3000:]
    files = [tmp_path / f"{count}-{number}.pt" for count in (1, 2) for number in range(count)]
    counts, found = zip(*(torch.load(file, weights_only=False) for file in files), strict=True)
    assert counts == (1, 2, 2)
    return list(found)


def with_branches(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The product of a branch's factors in their place: singular vectors have a sign that rounding may turn."""
    products = {
        name: up.transpose(-1, -2) @ tensors[name.replace("branch_up", "branch_down")]
        for name, up in tensors.items()
        if name.endswith("branch_up")
    }
    return {name: tensor for name, tensor in tensors.items() if "branch_" not in name} | products


def distances(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """By tensor, how far the values of two learners lie apart; of the larger ones, as a share of the largest."""
    here, there = (with_branches(dict(tensors_in(tensors, ""))) for tensors in (one, other))
    assert here.keys() == there.keys()
    return {
        name: float((tensor.double() - there[name].double()).abs().max() / tensor.double().abs().max().clamp(min=1))
        for name, tensor in here.items()
        # A key's bias changes no attention: its gradient is rounding.
        if tensor.numel() and not name.endswith("key.bias")
    }


def assert_alike(
    found: Sequence[dict[str, Any]], variants: Sequence[str], bound: float, *, answers: bool = True
) -> None:
    """One process and two end with the same tensors to this bound, and two with the same to the bit.

    Answers are the same as well, but for variants that rounding moves by enough for another one.
    """
    alone, *others = found
    for variant in variants:
        for other in others:
            apart = distances(alone[variant]["tensors"], other[variant]["tensors"])
            assert apart, variant
            assert max(apart.values()) < bound, (variant, max(apart, key=lambda name: apart[name]), max(apart.values()))
            assert not answers or other[variant]["answers"] == alone[variant]["answers"], variant
            assert other[variant]["work"] == alone[variant]["work"], variant
        first, second = (dict(tensors_in(other[variant]["tensors"], "")) for other in others)
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), variant


def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    """Steps of 5, 5 and 2 rows; in the last of them each process has one."""
    variants = ("seq_ft+migu", "der_pp")
    assert_alike(both(tmp_path, "t5", "float64", variants), variants, 1e-5)


def test_with_a_sharded_host(tmp_path: Path) -> None:
    variants = ("seq_ft+migu", "am_lora")
    assert_alike(both(tmp_path, "t5", "float64", variants, sharded=True), variants, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_the_named_ones_in_float32(tmp_path: Path, architecture: str, sharded: bool) -> None:
    """With the usual epsilon AdamW's step jumps where a gradient is nearly 0. How far depends on the processor."""
    assert_alike(both(tmp_path, architecture, "float32", NAMED, sharded=sharded, steady=True), NAMED, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_lb_cl_in_float32(tmp_path: Path, architecture: str) -> None:
    """Without a steady AdamW rounding moves them by up to 2e-4."""
    assert_alike(both(tmp_path, architecture, "float32", LB_CL, steady=True), LB_CL, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_every_method_in_float64(tmp_path: Path, architecture: str) -> None:
    variants = [name for name in VARIANTS if not refused(held_method(name), architecture)]
    found = both(tmp_path, architecture, "float64", variants)
    steady = [name for name in variants if name not in (*UNSTEADY, *BY_MICRO_BATCH)]
    assert_alike(found, steady, 1e-5)
    assert_alike(found, [name for name in variants if name in UNSTEADY], 2e-2, answers=False)


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_every_method_with_a_sharded_host(tmp_path: Path, architecture: str) -> None:
    """Those that need the whole host are refused (`tests/models/test_sharding.py`)."""
    variants = [
        name
        for name in VARIANTS
        if not refused(held_method(name), architecture) and not needs_whole_host(name, architecture)
    ]
    found = both(tmp_path, architecture, "float64", variants, sharded=True)
    assert_alike(found, [name for name in variants if name not in UNSTEADY], 1e-5)
    assert_alike(found, [name for name in variants if name in UNSTEADY], 2e-2, answers=False)
