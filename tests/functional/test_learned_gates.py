"""Gates against a loop over rows and tasks, and what keeps them shut on earlier inputs, under a real optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.input_spans import extended_basis, top_directions
from nacre.functional.learned_gates import gate_codes, gates_of, kept


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_gate(pooled: Tensor, inner: Tensor, outer: Tensor, key: Tensor) -> float:
    def silu(x: float) -> float:
        return x / (1 + math.exp(-x))

    first = [silu(float(row @ pooled)) for row in inner]
    codes = [silu(sum(float(b) * x for b, x in zip(row, first, strict=True))) for row in outer]
    dot = sum(x * float(k) for x, k in zip(codes, key, strict=True))
    cosine = dot / math.sqrt(sum(x * x for x in codes)) / float(key.norm())
    return abs(2 / (1 + math.exp(-4 * cosine)) - 1)


def test_gates_are_those_of_a_loop() -> None:
    pooled, inner, outer, keys = drawn(5, 6), drawn(3, 4, 6, seed=3), drawn(3, 6, 4, seed=4), drawn(3, 6, seed=5)
    _, codes = gate_codes(pooled, inner, outer)
    expected = [[naive_gate(p, inner[i], outer[i], keys[i]) for i in range(3)] for p in pooled]
    torch.testing.assert_close(gates_of(codes, keys), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_gate_is_open_at_most_to_0964() -> None:
    codes = drawn(1, 1, 6)
    assert float(gates_of(codes, codes[0])) == pytest.approx(0.9640, abs=1e-4)
    assert float(gates_of(codes, -codes[0])) == pytest.approx(0.9640, abs=1e-4)


def moment_of(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def gate_on_old_rows(*, restore_norms: bool, keeps: bool = True) -> float:
    """The largest gate of a second task on the first one's rows, after a hundred steps of AdamW that want it open."""
    old, new = drawn(8, 24, seed=6), drawn(8, 24, seed=7)
    inner, outer, key = drawn(16, 24, seed=8) / 5, drawn(24, 16, seed=9) / 4, drawn(24, seed=10)
    first, codes = gate_codes(old, inner[None], outer[None])
    nothing = old.new_zeros(0, 24)
    bases = [
        extended_basis(moment_of(rows), nothing[:, : rows.shape[1]], 1.0, "moments")
        for rows in (old, first[:, 0], codes[:, 0])
    ]
    _, found = gate_codes(new, inner[None], outer[None])
    key = top_directions(moment_of(found[:, 0]), bases[2], 1)[0] * key.norm()
    start = [inner, outer, key[None]]
    trained = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    both = torch.cat([old, new])
    for _ in range(100):
        _, codes = gate_codes(both, trained[0][None], trained[1][None])
        optimizer.zero_grad()
        (-gates_of(codes, trained[2]).mean()).backward()
        optimizer.step()
        if keeps:
            with torch.no_grad():
                for parameter, before, basis in zip(trained, start, bases, strict=True):
                    parameter.copy_(kept(parameter, before, basis, restore_norms=restore_norms))
    with torch.no_grad():
        _, codes = gate_codes(both, trained[0][None], trained[1][None])
        gates = gates_of(codes, trained[2])
    assert float(gates[8:].min()) > 0.5, "the new rows' gate is open"
    return float(gates[:8].max())


def test_the_projection_of_updates_keeps_a_gate_shut_on_old_rows_and_lengths_open_it() -> None:
    assert gate_on_old_rows(restore_norms=False) < 1e-9
    assert gate_on_old_rows(restore_norms=True) > 1e-3
    assert gate_on_old_rows(restore_norms=False, keeps=False) > 0.5


def test_restored_rows_have_their_lengths() -> None:
    values, start, basis = drawn(3, 6), drawn(3, 6, seed=3), torch.linalg.qr(drawn(6, 2, seed=4))[0].T
    found = kept(values, start, basis, restore_norms=True)
    torch.testing.assert_close(found.norm(dim=1), values.norm(dim=1), rtol=1e-12, atol=0)
    plain = kept(values, start, basis)
    torch.testing.assert_close((plain - start) @ basis.T, torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=1e-12)
    complement = torch.eye(6, dtype=torch.float64) - basis.T @ basis
    torch.testing.assert_close(plain @ complement, values @ complement, rtol=0, atol=1e-12)
